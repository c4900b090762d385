//go:build interop

package config_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage/config"
)

var seed = flag.Uint64("config.seed", 1, "seed of the random files; 0 chooses one")

// python is the interpreter with the real ZConfig and ZEO.
func python(t testing.TB) string {
	t.Helper()
	p := os.Getenv("RAIDSTORAGE_PYTHON")
	if p == "" {
		t.Fatal("RAIDSTORAGE_PYTHON must name a Python with ZEO")
	}
	return p
}

// zeoLoad has ZEO load the files, and returns what it made of each, nil where it
// refused, and the reasons.
func zeoLoad(t testing.TB, paths []string, vars map[string]string) ([]map[string]any, string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), python(t), filepath.Join("testdata", "zeoconf.py"))
	cmd.Stdin = strings.NewReader(strings.Join(paths, "\n") + "\n")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "PYTHONDONTWRITEBYTECODE=1"}
	for name, value := range vars {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("python: %v\n%s", err, stderr.String())
	}
	var all []map[string]any
	for line := range strings.Lines(string(out)) {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatal(err)
		}
		if v != nil {
			v["level"] = slogLevel(v["level"])
			for _, log := range v["logs"].([]any) {
				log := log.(map[string]any)
				log["level"] = slogLevel(log["level"])
			}
		}
		all = append(all, v)
	}
	if len(all) != len(paths) {
		t.Fatalf("python answered for %d of %d files", len(all), len(paths))
	}
	return all, stderr.String()
}

// slogLevel is where a level of Python's stands among slog's.
func slogLevel(level any) any {
	return max(-8, float64(int(level.(float64)-20)*4/10))
}

// view is a configuration as zeoconf.py shows it.
func view(t testing.TB, c *config.Config) map[string]any {
	t.Helper()
	s := c.Server
	v := map[string]any{
		"address": addresses(s.Addresses), "read_only": s.ReadOnly, "queue": s.InvalidationQueueSize,
		"age": s.InvalidationAge.Seconds(), "timeout": int(s.TransactionTimeout / time.Second),
		"msgpack": s.Msgpack, "pid": s.PIDFile, "ssl": s.TLS != nil,
		"level": level(c.Log.Level),
	}
	storages, logs := []any{}, []any{}
	for _, s := range c.Storages {
		storages = append(storages, viewStorage(s))
	}
	for _, f := range c.Log.Files {
		logs = append(logs, map[string]any{
			"path": f.Path, "max_size": f.MaxBytes, "old_files": f.OldFiles, "level": level(f.Level),
		})
	}
	v["storages"], v["logs"] = storages, logs
	text, err := json.Marshal(v) // so that numbers are of the same type
	if err != nil {
		t.Fatal(err)
	}
	var same map[string]any
	if err := json.Unmarshal(text, &same); err != nil {
		t.Fatal(err)
	}
	return same
}

func level(l slog.Level) int { return int(l) }

func viewStorage(s config.Storage) map[string]any {
	switch k := s.Kind.(type) {
	case *config.FileStorage:
		return map[string]any{
			"kind": "filestorage", "name": s.Name, "path": k.Path, "blob_dir": k.BlobDir,
			"read_only": k.ReadOnly, "pack_gc": k.PackGC, "pack_keep_old": k.PackKeepOld,
		}
	case *config.ZEOClient:
		return map[string]any{
			"kind": "zeoclient", "name": s.Name, "servers": addresses(k.Servers), "storage": k.Storage,
			"cache_size": k.CacheBytes, "wait": k.Wait, "read_only": k.ReadOnly, "fallback": k.ReadOnlyFallback,
			"label": k.Label,
		}
	case *config.MemStorage:
		return map[string]any{"kind": "mappingstorage", "name": s.Name}
	}
	return map[string]any{"kind": fmt.Sprintf("%T", s.Kind)}
}

func addresses(all []config.Address) []any {
	var v []any
	for _, a := range all {
		if a.Path != "" {
			v = append(v, a.Path)
		} else {
			v = append(v, []any{a.Host, a.Port})
		}
	}
	return v
}

func TestZEOReadsTheSameOfTheRealFiles(t *testing.T) {
	t.Parallel()
	root := makeDirs(t, "app/var", "app/bin", "data/filestorage", "data/log",
		"var/filestorage", "var/log", "parts/zeoserver/bin")
	vars := map[string]string{
		"ROOT": root, "BUILDOUT": root, "ZEO_PORT": "8101", "ZEO_READ_ONLY": "false",
		"ZEO_INVALIDATION_QUEUE_SIZE": "101", "ZEO_PACK_KEEP_OLD": "no", "ZEO_MSGPACK": "1",
	}
	paths := []string{"testdata/container.conf", "testdata/recipe.conf"}
	all, reasons := zeoLoad(t, paths, vars)
	for i, path := range paths {
		c, err := config.Load(path, env(vars))
		if err != nil {
			t.Errorf("%v", err)
		} else if d := cmp.Diff(view(t, c), all[i]); d != "" {
			t.Errorf("%s: ours and ZEO's differ: %s\n%s", path, d, reasons)
		}
	}
}

func TestZEORefusesWhatWeRefuse(t *testing.T) {
	t.Parallel()
	cases := faultCases()
	var paths []string
	for _, c := range cases {
		paths = append(paths, write(t, map[string]string{"zeo.conf": c.file()}))
	}
	all, reasons := zeoLoad(t, paths, nil)
	for i, c := range cases {
		if (all[i] != nil) != c.python {
			t.Errorf("%s: ZEO takes it: %v; we meant %v\n%s", c.name, all[i] != nil, c.python, reasons)
		}
	}
}

// rich has all that both take.
const rich = `%define Name va$$lue
# comment
%define other ${NAME}$(VAR)
<zeo>
  address [::1]:$(PORT)
  read-only off
  invalidation-queue-size 20
  invalidation-age 1e3
  transaction-timeout 30
  msgpack yes
  pid-filename $other.pid
</zeo>
%include part.conf
<filestorage One>
  path ./$name.fs
  blob-dir blobs(1)
  pack-gc No
</filestorage>
<blobstorage two>
  blob-dir ./blobs $$ (2)
  <filestorage>
    path 2.fs
    create off
  </filestorage>
</blobstorage>
<zeoclient three>
  server localhost:1
  server /a/b
  server 99
  storage a b
  cache-size 3 kb
  client-label $NAME
  wait off
</zeoclient>
<mappingstorage/>
<eventlog>
  level debug
  <logfile>
    path log
    max-size 10MB
    old-files 4
    level 40
  </logfile>
</eventlog>
`

// part is included by rich.
const part = "%define more 1\n<mappingstorage 4>\nname $more\n</mappingstorage>\n"

// mutate changes, in one or two places, what the syntax is made of.
func mutate(r *rand.Rand, text string) string {
	lines := strings.SplitAfter(text, "\n")
	for range 1 + r.IntN(2) {
		i := r.IntN(len(lines))
		line := lines[i]
		at := r.IntN(len(line) + 1)
		bits := []string{"<", ">", "/", "%", "$", "{", "}", "(", ")", "#", " ", "\t", "\n", "\r", "\u00a0", "\x1c", "\u2003", "A", "_", "$$"}
		switch r.IntN(5) {
		case 0, 1:
			lines[i] = line[:at] + bits[r.IntN(len(bits))] + line[at:]
		case 2:
			if at < len(line) {
				lines[i] = line[:at] + line[at+1:]
			}
		case 3:
			j := r.IntN(len(lines))
			lines[i], lines[j] = lines[j], lines[i]
		case 4:
			lines[i] = strings.ToUpper(line)
		}
	}
	return strings.Join(lines, "")
}

func TestZEOAgreesOnRandomFiles(t *testing.T) {
	t.Parallel()
	chosen := *seed
	if chosen == 0 {
		chosen = rand.Uint64()
	}
	t.Logf("-config.seed=%d", chosen)
	r := rand.New(rand.NewPCG(chosen, 0))
	vars := map[string]string{"PORT": "8100", "VAR": "$x"}
	texts := []string{rich}
	for range 400 {
		texts = append(texts, mutate(r, rich))
	}
	var paths []string
	for _, text := range texts {
		paths = append(paths, write(t, map[string]string{"zeo.conf": text, "part.conf": part}))
	}
	all, reasons := zeoLoad(t, paths, vars)
	accepted := 0
	for i, text := range texts {
		c, err := config.Load(paths[i], env(vars))
		switch {
		case err == nil && all[i] != nil:
			accepted++
			if d := cmp.Diff(view(t, c), all[i]); d != "" {
				t.Errorf("ours and ZEO's differ: %s\n%s", d, text)
			}
		case err == nil && len(c.Server.Addresses) > 1: // ours alone
		case err != nil && all[i] != nil && stricter(err):
		case (err == nil) != (all[i] != nil):
			t.Errorf("%s: ZEO takes it: %v, ours says %v\n%s%s", paths[i], all[i] != nil, err, changed(text), grep(reasons, paths[i]))
		}
	}
	if all[0] == nil {
		t.Errorf("ZEO refuses the file without changes: %s", grep(reasons, paths[0]))
	}
	if accepted < 50 || accepted > 350 {
		t.Errorf("both take %d of %d files", accepted, len(texts))
	}
}

// stricter tells whether all faults are such as ZEO finds, if at all, when it opens what
// the file describes.
func stricter(err error) bool {
	all, ok := errors.AsType[*config.Error](err)
	ours := regexp.MustCompile("has no port|not a valid host name|is not between|around has one|is used in line|read-only is on|is empty")
	return ok && !slices.ContainsFunc(all.Faults, func(f config.Fault) bool { return !ours.MatchString(f.Message) })
}

// changed shows the lines that are not in rich.
func changed(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.Contains(rich, line) {
			fmt.Fprintf(&b, "%q\n", line)
		}
	}
	return b.String()
}

func grep(text, word string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, word) {
			return line
		}
	}
	return ""
}
