package rules

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestReadmeCommandsAreRun: people type what the README says, so each of its commands
// is one that .ci/run runs, literally. The exceptions are run too, in another form.
func TestReadmeCommandsAreRun(t *testing.T) {
	t.Parallel()
	exceptions := []string{
		".ci/run", // runs itself
		"go run ./examples/quickstart -db Data.fs", // .ci/run makes a Data.fs elsewhere
		"go run ./cmd/zeoraid serve",               // the interop tests do, at other addresses
	}
	ci := read(t, ".ci/run")
	commands := strings.Split(strings.Join(blocks(read(t, "README.md"), "sh"), "\n"), "\n")
	if len(commands) < 3 {
		t.Errorf("the README has %d commands only", len(commands))
	}
	for _, c := range commands {
		if !slices.Contains(exceptions, c) && !strings.Contains(ci, `section "`+c+`"`) {
			t.Errorf("the README tells to run %q, and .ci/run has no section of that name", c)
		}
	}
	for _, c := range []string{"go run ./examples/quickstart\n", `go run ./examples/quickstart -db "$work/Data.fs"`, " tests ./...\n"} {
		if !strings.Contains(ci, c) {
			t.Errorf(".ci/run does not run %q", c)
		}
	}
}

// TestReadmeProgram: the program in the README is the one in examples/first, which
// has a test.
func TestReadmeProgram(t *testing.T) {
	t.Parallel()
	programs := blocks(read(t, "README.md"), "go")
	_, want, ok := strings.Cut(read(t, "examples/first/main.go"), "package main\n")
	if len(programs) != 1 || !ok || strings.TrimPrefix(programs[0], "package main\n") != strings.TrimSuffix(want, "\n") {
		t.Error("the README's program is not examples/first/main.go from its package clause on")
	}
}

// TestReadmeLinks: what the README and the changelog point to is there.
func TestReadmeLinks(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"README.md", "CHANGELOG.md"} {
		for _, part := range strings.Split(read(t, name), "](")[1:] {
			target, _, _ := strings.Cut(part, ")")
			if _, err := os.Stat(filepath.Join(root, target)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// blocks returns the contents of the code blocks of a language.
func blocks(markdown, language string) (all []string) {
	for _, part := range strings.Split(markdown, "\n```"+language+"\n")[1:] {
		block, _, _ := strings.Cut(part, "\n```")
		all = append(all, block)
	}
	return all
}
