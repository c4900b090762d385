package rules

import (
	"go/ast"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func position(line int) string { return strconv.Itoa(line) }

// mayImport tells whether the package from may import the package to, both given by
// their paths in the module. Tests may import what they compose.
func mayImport(from, to string) bool {
	in := func(path, folder string) bool { return path == folder || strings.HasPrefix(path, folder+"/") }
	if in(to, "examples") || in(to, "cmd") {
		return in(from, "cmd") && in(to, "cmd") // programs are nobody's library
	}
	switch {
	case from == "": // the contract and the mirror know no implementation
		return false
	case in(from, "internal"):
		return to == "" || in(to, "internal")
	case in(from, "config"), in(from, "admin"), in(from, "cmd"), in(from, "examples"):
		return true
	}
	return to == "" || in(to, "internal") // storages do not know each other
}

// mayImportModule tells whether the package from, tests apart, may import a package of
// another module.
func mayImportModule(from, path string) bool {
	if strings.HasPrefix(path, "github.com/hashicorp/go-multierror") || strings.HasPrefix(path, "golang.org/x/sync/") {
		return true
	}
	if strings.HasPrefix(path, "golang.org/x/sys/") {
		return from != "" // the root is portable
	}
	if strings.HasPrefix(path, "github.com/prometheus/") {
		return from == "admin" // whoever embeds a mirror has metrics of his own
	}
	return from == "storagetest" && strings.HasPrefix(path, "github.com/google/go-cmp/")
}

func TestImportTable(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{ // importer, imported
		" memstorage":                      false,
		" internal/pickleref":              false,
		"memstorage ":                      true,
		"memstorage internal/pickleref":    true,
		"memstorage filestorage":           false,
		"filestorage storagetest":          false,
		"internal/zeowire ":                true,
		"internal/zeowire memstorage":      false,
		"zeoserver examples/wrap":          false,
		"config filestorage":               true,
		"cmd/zeoraid config":               true,
		"cmd/zeoraid cmd/zeoraid/internal": true,
		"config cmd/zeoraid":               false,
		"examples/wrap memstorage":         true,
	}
	for pair, want := range tests {
		from, to, _ := strings.Cut(pair, " ")
		if got := mayImport(from, to); got != want {
			t.Errorf("may %q import %q: %v, want %v", from, to, got, want)
		}
	}
}

func TestImports(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		for _, path := range p.Imports {
			first, _, _ := strings.Cut(path, "/")
			to, ours := strings.CutPrefix(path+"/", modulePath+"/")
			switch {
			case ours:
				if to = strings.TrimSuffix(to, "/"); !mayImport(p.name, to) {
					t.Errorf("package %q must not import %q", p.name, to)
				}
			case strings.Contains(first, ".") && !mayImportModule(p.name, path):
				t.Errorf("package %q must not import %s", p.name, path)
			}
		}
	}
}

func TestLengths(t *testing.T) {
	t.Parallel()
	const maxFile, maxFunction = 600, 80
	for _, s := range sources(t) {
		if s.lines > maxFile {
			t.Errorf("%s has %d lines, at most %d are allowed", s.name, s.lines, maxFile)
		}
		s.functions(func(f *ast.FuncDecl) {
			if n := s.ownLength(f); n > maxFunction && !s.test {
				t.Errorf("%s: %s has %d lines, at most %d are allowed", s.at(f), f.Name.Name, n, maxFunction)
			}
		})
	}
}

// TestDocumentation: everything that the module exports has a doc comment, but for
// the methods that say all by their names.
func TestDocumentation(t *testing.T) {
	t.Parallel()
	obvious := []string{"Error", "Unwrap"}
	for _, s := range sources(t) {
		if s.test || s.file.Name.Name == "main" {
			continue
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) && !slices.Contains(obvious, d.Name.Name) {
					t.Errorf("%s: %s has no doc comment", s.at(d), d.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					for _, name := range undocumented(d, spec) {
						t.Errorf("%s: %s has no doc comment", s.at(spec), name)
					}
				}
			}
		}
	}
}

// exportedReceiver tells whether f is a function, or a method of an exported type.
func exportedReceiver(f *ast.FuncDecl) bool {
	if f.Recv == nil {
		return true
	}
	typ := f.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if generic, ok := typ.(*ast.IndexExpr); ok {
		typ = generic.X
	}
	name, ok := typ.(*ast.Ident)
	return ok && name.IsExported()
}

// undocumented returns the exported names that spec declares without a comment, its
// own or that of its group.
func undocumented(d *ast.GenDecl, spec ast.Spec) (names []string) {
	switch spec := spec.(type) {
	case *ast.TypeSpec:
		if spec.Name.IsExported() && spec.Doc == nil && d.Doc == nil {
			names = append(names, spec.Name.Name)
		}
	case *ast.ValueSpec:
		for _, name := range spec.Names {
			if name.IsExported() && spec.Doc == nil && spec.Comment == nil && d.Doc == nil {
				names = append(names, name.Name)
			}
		}
	}
	return names
}

// TestNoPackageState: no init function, and no package variable but assertions,
// error values, and unexported tables of names, which cannot grow.
func TestNoPackageState(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		s.functions(func(f *ast.FuncDecl) {
			if f.Name.Name == "init" && f.Recv == nil {
				t.Errorf("%s: there is an init function", s.at(f))
			}
		})
		if s.test {
			continue // a test's flags and error values are its own
		}
		for _, d := range s.file.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			for _, spec := range g.Specs {
				v := spec.(*ast.ValueSpec) // by the language, in a var declaration
				for i, name := range v.Names {
					if name.Name != "_" && !(i < len(v.Values) && harmless(name, v.Values[i])) {
						t.Errorf("%s: package variable %s", s.at(spec), name.Name)
					}
				}
			}
		}
	}
}

// harmless tells whether a package variable is an error value or a table.
func harmless(name *ast.Ident, value ast.Expr) bool {
	switch v := value.(type) {
	case *ast.CallExpr:
		return (strings.HasPrefix(name.Name, "Err") || strings.HasPrefix(name.Name, "err")) && called(v) == "errors.New"
	case *ast.CompositeLit:
		array, ok := v.Type.(*ast.ArrayType)
		return ok && array.Len != nil && !name.IsExported()
	}
	return false
}

// called returns what a call calls, such as "errors.New", if it is a plain name.
func called(c *ast.CallExpr) string {
	if sel, ok := c.Fun.(*ast.SelectorExpr); ok {
		if x, ok := sel.X.(*ast.Ident); ok {
			return x.Name + "." + sel.Sel.Name
		}
		return "." + sel.Sel.Name
	}
	return ""
}

// inBubbles are files that only run in a bubble of testing/synctest, where to sleep is
// to let simulated time pass. Files that import it need not be listed.
func inBubbles() []string { return []string{"platter_test.go", "property_faults_test.go"} }

// TestNoSleep: what waits for time to pass is slow, or fails on a slow machine.
func TestNoSleep(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		bubble := slices.Contains(inBubbles(), s.name) || s.imports("testing/synctest")
		ast.Inspect(s.file, func(n ast.Node) bool {
			if c, ok := n.(*ast.CallExpr); ok && called(c) == "time.Sleep" && !bubble {
				t.Errorf("%s: time.Sleep", s.at(n))
			}
			return true
		})
	}
}
