package rules

import (
	"go/ast"
	"slices"
	"strings"
	"testing"
)

// starters are the functions that start goroutines, but for those of tests, of the
// test suite and of examples. Whoever adds one says who waits for its end.
func starters() []string {
	return []string{
		"notify.go start",         // Mirror.run: Close waits
		"raidstorage.go Close",    // waits itself
		"pack_steps.go switchAll", // waits itself
		"startup.go openAll",      // waits itself
		"startup.go firstStart",   // waits itself

		"admin/jobs.go start",                       // Server.Shutdown waits
		"cmd/zeoraid/serve.go serveAll",             // waits itself
		"internal/loadgen/loadgen.go measure",       // waits itself
		"zeoclient/end.go endLocked",                // conn.close waits
		"zeoclient/end.go spawn",                    // conn.close waits
		"zeoclient/startload.go watchLoads",         // conn.close waits
		"zeoclient/dial.go connect",                 // conn.close waits
		"zeoclient/storage.go Open",                 // Storage.Close waits
		"zeoserver/conn.go serve",                   // waits itself
		"zeoserver/conn.go spawn",                   // conn.serve waits
		"zeoserver/lane.go add",                     // conn.serve waits
		"zeoserver/load.go loadBeside",              // conn.serve waits
		"zeoserver/pack.go packLater",               // Server.Close waits
		"zeoserver/reader.go handOver",              // conn.serve waits
		"zeoserver/server.go admit",                 // Server.Close waits
		"zeoserver/startload.go Loaded",             // conn.serve waits
		"zeoserver/server.go Shutdown",              // waits itself
		"filestorage/early.go startEarly",           // Storage.Close waits
		"filestorage/indexsave.go askForSaveLocked", // Storage.Close waits
		"filestorage/pack_mark.go follow",           // waits itself
		"filestorage/settle.go settleLocked",        // Storage.Close waits
		"filestorage/pack_out.go newPackOut",        // packOut.stop waits; Pack always calls it
	}
}

// bareStarters are the functions that use a go statement and not a WaitGroup: the
// test suite's calls of methods that must not hang, but may.
func bareStarters() []string {
	return []string{
		"storagetest/close.go closeRules",
		"storagetest/lock.go voteLater",
	}
}

func TestGoroutinesHaveOwners(t *testing.T) {
	t.Parallel()
	known := slices.Concat(starters(), bareStarters())
	seen := make(map[string]bool)
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		free := strings.HasPrefix(s.pkg, "examples/") || s.pkg == "storagetest"
		s.functions(func(f *ast.FuncDecl) {
			where := s.name + " " + f.Name.Name
			ast.Inspect(f, func(n ast.Node) bool {
				var starts bool
				switch n := n.(type) {
				case *ast.GoStmt:
					starts = true
				case *ast.CallExpr:
					sel, ok := n.Fun.(*ast.SelectorExpr)
					starts = ok && sel.Sel.Name == "Go" && !free
				}
				if starts && !slices.Contains(known, where) {
					t.Errorf("%s: %s starts a goroutine and is not on the list", s.at(n), f.Name.Name)
				}
				seen[where] = seen[where] || starts
				return true
			})
		})
	}
	for _, where := range known {
		if !seen[where] {
			t.Errorf("%s is on the list and starts no goroutine", where)
		}
	}
}
