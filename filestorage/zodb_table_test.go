package filestorage_test

import (
	"bufio"
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// zodbCase is a line of testdata/zodb-tests.txt.
type zodbCase struct {
	name    string // file and case
	covered []string
}

// zodbCases reads testdata/zodb-tests.txt.
func zodbCases(t testing.TB) (all []zodbCase) {
	t.Helper()
	lines := bufio.NewScanner(bytes.NewReader(read(t, filepath.Join("testdata", "zodb-tests.txt"))))
	for lines.Scan() {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		name, rest, ok := strings.Cut(line, ": ")
		if !ok || len(strings.Fields(name)) != 2 {
			t.Fatalf("not a case: %s", line)
		}
		c := zodbCase{name: name}
		if strings.HasPrefix(rest, "none ") { // the reason is free text
			c.covered = []string{rest}
		} else {
			c.covered = strings.Split(rest, "; ")
		}
		all = append(all, c)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// parsed calls f with each Go file in dir whose name ends with suffix.
func parsed(t testing.TB, dir, suffix string, f func(name string, file *ast.File)) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, e.Name()), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		f(e.Name(), file)
	}
}

// testsIn returns the names of the tests in dir, whatever their build tags.
func testsIn(t testing.TB, dir string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	parsed(t, dir, "_test.go", func(_ string, file *ast.File) {
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Test") {
				names[f.Name.Name] = true
			}
		}
	})
	return names
}

// rulesIn returns the names of the rules of storagetest: of values rule{name: "..."}.
func rulesIn(t testing.TB, dir string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	parsed(t, dir, ".go", func(name string, file *ast.File) {
		if strings.HasSuffix(name, "_test.go") {
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			field, ok := n.(*ast.KeyValueExpr)
			if !ok {
				return true
			}
			key, isName := field.Key.(*ast.Ident)
			text, isText := field.Value.(*ast.BasicLit)
			if isName && key.Name == "name" && isText {
				if s, err := strconv.Unquote(text.Value); err == nil {
					names[s] = true
				}
			}
			return true
		})
	})
	return names
}

func TestEachCaseOfZODBIsCovered(t *testing.T) {
	t.Parallel()
	rules := rulesIn(t, filepath.Join("..", "storagetest"))
	tests := map[string]map[string]bool{}
	seen := map[string]bool{}
	for _, c := range zodbCases(t) {
		if seen[c.name] {
			t.Errorf("%s is there twice", c.name)
		}
		seen[c.name] = true
		for _, by := range c.covered {
			kind, name, _ := strings.Cut(by, " ")
			switch kind {
			case "none":
				if len(strings.Fields(name)) < 3 && name != "Python connections" && name != "an empty test" && name != "a data manager" {
					t.Errorf("%s: %q is no reason", c.name, name)
				}
			case "rule":
				if !rules[name] {
					t.Errorf("%s: there is no rule %q", c.name, name)
				}
			case "test":
				dir := "."
				if path, test, ok := strings.Cut(name, " "); ok {
					dir, name = filepath.FromSlash(path), test
				}
				if tests[dir] == nil {
					tests[dir] = testsIn(t, dir)
				}
				if !tests[dir][name] {
					t.Errorf("%s: there is no test %s in %s", c.name, name, dir)
				}
			default:
				t.Errorf("%s: %q", c.name, by)
			}
		}
	}
}
