package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// root is the module's folder, as seen from here.
const root = "../.."

// modulePath is the module's name in go.mod.
const modulePath = "github.com/zeoraid/raidstorage"

// pkg is what `go list -json` says of a package.
type pkg struct {
	ImportPath     string
	Dir            string
	GoFiles        []string
	IgnoredGoFiles []string // with a build tag
	TestGoFiles    []string
	XTestGoFiles   []string
	Imports        []string // of GoFiles

	name string // the import path in the module, "" for the root
}

// packages lists the module's packages.
func packages(t *testing.T) []pkg {
	t.Helper()
	touch(t)
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		p.name = strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, modulePath), "/")
		all = append(all, p)
	}
	if len(all) < 4 {
		t.Fatalf("go list found %d packages only", len(all))
	}
	return all
}

// touch opens all folders. The go command then knows that this test depends on them,
// and does not answer from its cache when a file was added.
func touch(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// source is a parsed file.
type source struct {
	name  string // its path in the module
	pkg   string // the package's path in the module
	test  bool   // a _test.go file
	lines int
	file  *ast.File
	fset  *token.FileSet
}

// at returns where n is, for messages.
func (s source) at(n ast.Node) string {
	p := s.fset.Position(n.Pos())
	return s.name + ":" + position(p.Line)
}

func (s source) imports(path string) bool {
	return slices.ContainsFunc(s.file.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == strconv.Quote(path) })
}

// ownLength is how many lines f has without the function literals inside: a table of
// small functions is as easy to read as they are.
func (s source) ownLength(f *ast.FuncDecl) int {
	lines := func(n ast.Node) int { return s.fset.Position(n.End()).Line - s.fset.Position(n.Pos()).Line }
	n := lines(f) + 1
	ast.Inspect(f, func(inner ast.Node) bool {
		literal, ok := inner.(*ast.FuncLit)
		if ok {
			n -= lines(literal)
		}
		return !ok
	})
	return n
}

// functions calls f for each function declaration.
func (s source) functions(f func(*ast.FuncDecl)) {
	for _, d := range s.file.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok {
			f(fn)
		}
	}
}

// sources parses all Go files of the module, whatever their build tags.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	for _, p := range packages(t) {
		for _, base := range slices.Concat(p.GoFiles, p.IgnoredGoFiles, p.TestGoFiles, p.XTestGoFiles) {
			text, err := os.ReadFile(filepath.Join(p.Dir, base))
			if err != nil {
				t.Fatal(err)
			}
			s := source{
				name: strings.TrimPrefix(p.name+"/"+base, "/"), pkg: p.name,
				test: strings.HasSuffix(base, "_test.go"), lines: bytes.Count(text, []byte("\n")), fset: token.NewFileSet(),
			}
			if s.file, err = parser.ParseFile(s.fset, s.name, text, parser.ParseComments|parser.SkipObjectResolution); err != nil {
				t.Fatal(err)
			}
			all = append(all, s)
		}
	}
	return all
}
