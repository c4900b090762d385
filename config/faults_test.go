package config_test

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage/config"
)

// faulty are files with what is said of them. The %s of a template stands in line 3,
// within <zeo>, or at the end, from line 6 on.
const (
	inServer = "<zeo>\naddress 8100\n%s\n</zeo>\n<mappingstorage 1/>\n"
	atEnd    = "<zeo>\naddress 8100\n</zeo>\n<mappingstorage 1/>\n\n%s\n"
)

type faultCase struct {
	name     string
	template string // inServer or atEnd; empty: text is the whole file
	text     string
	want     []string
	// python is true where ZConfig takes the file and we do not.
	python bool
}

func (c faultCase) file() string {
	if c.template == "" {
		return c.text
	}
	return strings.Replace(c.template, "%s", c.text, 1)
}

func one(s string) []string { return []string{s} }

func faultCases() []faultCase {
	const keys = "known are address, read-only, invalidation-queue-size, invalidation-age, transaction-timeout, " +
		"client-conflict-resolution, msgpack, pid-filename, monitor-address, authentication-protocol, " +
		"authentication-database, authentication-realm"
	return []faultCase{
		{name: "key misspelled", template: inServer, text: "read-onyl true",
			want: one(`zeo.conf:3: unknown key "read-onyl" in <zeo>; did you mean read-only?`)},
		{name: "key unlike all", template: inServer, text: "colour red",
			want: one(`zeo.conf:3: unknown key "colour" in <zeo>; ` + keys)},
		{name: "key twice", template: inServer, text: "msgpack on\nMsgpack off",
			want: one("zeo.conf:4: msgpack stands in <zeo> twice, first in line 3")},
		{name: "no boolean", template: inServer, text: "read-only maybe",
			want: one(`zeo.conf:3: read-only: "maybe" is neither yes, true, on nor no, false, off`)},
		{name: "no integer", template: inServer, text: "invalidation-queue-size 1.5",
			want: one(`zeo.conf:3: invalidation-queue-size: "1.5" is not an integer`)},
		{name: "integer out of range", template: inServer, text: "invalidation-queue-size -1", python: true,
			want: one("zeo.conf:3: invalidation-queue-size: -1 is not between 1 and 10000000")},
		{name: "huge integer", template: inServer, text: "invalidation-queue-size 99999999999999999999", python: true,
			want: one(`zeo.conf:3: invalidation-queue-size: "99999999999999999999" is out of range`)},
		{name: "no number", template: inServer, text: "invalidation-age soon",
			want: one(`zeo.conf:3: invalidation-age: "soon" is not a number`)},
		{name: "negative age", template: inServer, text: "invalidation-age -1", python: true,
			want: one("zeo.conf:3: invalidation-age: -1s is not between 0s and 876000h0m0s")},
		{name: "endless age", template: inServer, text: "invalidation-age inf", python: true,
			want: one(`zeo.conf:3: invalidation-age: "inf" is out of range`)},
		{name: "timeout of nothing", template: inServer, text: "transaction-timeout 0", python: true,
			want: one("zeo.conf:3: transaction-timeout: 0s is not between 1s and 876000h0m0s")},
		{name: "directory missing", template: inServer, text: "pid-filename /no/such/dir/zeo.pid",
			want: one(`zeo.conf:3: pid-filename: the directory of "/no/such/dir/zeo.pid" does not exist`)},
		{name: "old authentication", template: inServer, text: "authentication-protocol digest",
			want: one("zeo.conf:3: authentication-protocol: ZEO 5 and later have no authentication by password; use <ssl>")},
		{name: "port", template: inServer, text: "address localhost:65536", // a second address is ours
			want: one("zeo.conf:3: address: port 65536 is not between 0 and 65535")},
		{name: "ssl without files", template: inServer, text: "<ssl>\nauthenticate DYNAMIC\npassword-function a.b\n</ssl>",
			want: []string{
				"zeo.conf:3: <ssl> needs the key certificate",
				"zeo.conf:4: authenticate: DYNAMIC is not supported; name a file or directory of certificates",
				"zeo.conf:5: password-function: it names a function in Python; store the key without a password",
			}},
		{name: "ssl with missing files", template: inServer, text: "<ssl>\ncertificate nowhere.pem\nauthenticate nowhere.pem\n</ssl>",
			want: one("zeo.conf:3: <ssl>: open nowhere.pem: no such file or directory")},
		{name: "ssl twice", template: inServer, text: "<ssl>\ncertificate nowhere.pem\nauthenticate nowhere.pem\n</ssl>\n<ssl/>",
			want: []string{
				"zeo.conf:3: <ssl>: open nowhere.pem: no such file or directory",
				"zeo.conf:7: <zeo> has two sections <ssl>, the first in line 3",
			}},
		{name: "undefined", template: inServer, text: "pid-filename ${nope}.pid",
			want: one("zeo.conf:3: pid-filename: $nope is not defined")},
		{name: "lone dollar", template: inServer, text: "pid-filename a$",
			want: one(`zeo.conf:3: pid-filename: a lone "$" at the end; write "$$" for a dollar sign`)},
		{name: "open brace", template: inServer, text: "pid-filename ${a",
			want: one(`zeo.conf:3: pid-filename: no "}" follows "${a"`)},
		{name: "default for a variable", template: inServer, text: "pid-filename $(PIDFILE|zeo.pid)",
			want: one(`zeo.conf:3: pid-filename: no ")" follows "$(PIDFILE"`)},
		{name: "no name", template: inServer, text: "pid-filename $-",
			want: one(`zeo.conf:3: pid-filename: no name follows "$"; write "$$" for a dollar sign`)},
		{name: "bad key", template: inServer, text: "über 1",
			want: one(`zeo.conf:3: "über" is no key: a key is made of letters, digits, '-', '.' and '_'`)},
		{name: "no key", template: inServer, text: "(1)",
			want: one("zeo.conf:3: malformed line: neither key nor section")},
		{name: "directive", template: atEnd, text: "%includ x.conf\n%define\n%\n%define a.b c\n%define a b\n%define A c",
			want: []string{
				"zeo.conf:6: unknown directive %includ; did you mean include?",
				"zeo.conf:7: %define needs an argument",
				"zeo.conf:8: malformed directive",
				`zeo.conf:9: %define: "a.b" is no name: a name is made of letters, digits and '_'`,
				`zeo.conf:11: "a" is defined already, as "b"`,
			}},
		{name: "import", template: atEnd, text: "%import relstorage",
			want: one(`zeo.conf:6: %import of the unknown package "relstorage"; ` +
				"known are gocept.zeoraid, ZEO, ZODB, zdaemon, ZConfig.components.logger")},
		{name: "section misspelled", template: atEnd, text: "<filestorge 2>\npath Data.fs\n</filestorge>",
			want: one("zeo.conf:6: unknown section <filestorge> in the file; did you mean filestorage?")},
		{name: "section malformed", template: atEnd, text: "<eventlog>\n<logfile a b>\n</logfile>\n</eventlog>\n<runner\n</runner\n< a>\n</ a>",
			want: []string{
				"zeo.conf:7: malformed section header; it is <type> or <type name>",
				`zeo.conf:10: malformed section start: no ">" at the end of the line`,
				`zeo.conf:11: malformed section end: no ">" at the end of the line`,
				"zeo.conf:12: malformed section header; it is <type> or <type name>",
			}},
		{name: "sections crossed", template: atEnd, text: "<eventlog>\n<logfile>\npath STDERR\n</eventlog>\n</logfile>",
			want: []string{
				"zeo.conf:9: </eventlog> does not close <logfile> of line 7",
				"zeo.conf:10: </logfile> closes no section",
			}},
		{name: "section open", template: atEnd, text: "<eventlog>\n",
			want: one("zeo.conf:6: section <eventlog> is not closed")},
		{name: "name twice", template: atEnd, text: "<filestorage 1>\npath Data.fs\n</filestorage>",
			want: one(`zeo.conf:6: two sections are named "1", the first in line 4`)},
		{name: "name left out twice", template: atEnd, text: "<filestorage>\npath Data.fs\n</filestorage>",
			want: one("zeo.conf:6: a storage without a name is named 1, as another one is")},
		{name: "file twice", template: atEnd, text: "<filestorage 2>\npath Data.fs\nblob-dir blobs\n</filestorage>\n" +
			"<filestorage 3>\npath ./Data.fs\nblob-dir ./blobs\n</filestorage>", python: true,
			want: []string{
				"zeo.conf:11: the file " + quoted(t0("Data.fs")) + " is used in line 7 already",
				"zeo.conf:12: the blob directory " + quoted(t0("blobs")) + " is used in line 8 already",
			}},
		{name: "file storage", template: atEnd, text: "<filestorage 2>\ncreate true\nquota 1GB\npack-gc 1\n</filestorage>",
			want: []string{
				"zeo.conf:6: <filestorage 2> needs the key path",
				"zeo.conf:7: create: true would delete the database at each start; leave it out, a missing file is made",
				"zeo.conf:8: quota: a limit of the file's size is not supported",
				`zeo.conf:9: pack-gc: "1" is neither yes, true, on nor no, false, off`,
			}},
		{name: "blob storage", template: atEnd, text: "<blobstorage 2>\n<mappingstorage/>\n</blobstorage>\n<blobstorage 3>\nblob-dir b\n</blobstorage>",
			want: []string{
				"zeo.conf:6: <blobstorage 2> needs the key blob-dir",
				"zeo.conf:7: only a <filestorage> can be in <blobstorage 2>, not <mappingstorage>",
				"zeo.conf:9: <blobstorage 3> needs a <filestorage> in it",
			}},
		{name: "demo storage", template: atEnd, text: "<demostorage 2>\n</demostorage>", python: true,
			want: one("zeo.conf:6: <demostorage> is not supported: serve its base with a Python server")},
		{name: "client", template: atEnd, text: "<zeoclient 2>\nread-only on\nread-only-fallback on\nshared-blob-dir on\n" +
			"cache-size -1\nblob-cache-size x\n</zeoclient>\n<zeoclient 3>\nserver localhost\n</zeoclient>",
			want: []string{
				"zeo.conf:6: <zeoclient 2> needs the key server",
				"zeo.conf:8: read-only-fallback: read-only is on, too; choose one",
				"zeo.conf:9: shared-blob-dir: blob-dir is missing, which is the server's directory then",
				"zeo.conf:10: cache-size: -1 is not between 0 and 9223372036854775807",
				`zeo.conf:11: blob-cache-size: "x" is not an integer`,
				`zeo.conf:14: server: "localhost" has no port`,
			}},
		{name: "mirror", template: atEnd, text: "<raidstorage a/b>\n<mappingstorage/>\n<filestorage x>\npath x\nread-only on\n</filestorage>\n" +
			"<filestorage y>\npath y\npack-gc off\n</filestorage>\nwrite-quorum 4\nstart-quorum 0\nread-policy round-robbin\n" +
			"finish-timeout 0\nread-only on\ncatch-up-ratio 1\ncatch-up-max-delay 2d\nquorum 1\nscrub-interval 1s\nscrub-rate 5\n" +
			"pack-timeout 31d\npack-compare-rate -1\n</raidstorage>",
			want: []string{
				"zeo.conf:6: <raidstorage a/b> needs the key state-dir: its name is no name for a directory",
				"zeo.conf:7: a member of a <raidstorage> must have a name, as in <mappingstorage 1>",
				`zeo.conf:8: member "x": read-only is on, so that it could not follow the others`,
				`zeo.conf:12: member "y": pack-gc is off for "y" and on for "x"; it must be the same for all`,
				"zeo.conf:16: write-quorum: 4 is not between 1 and 3",
				"zeo.conf:17: start-quorum: 0 is not between 1 and 3",
				`zeo.conf:18: read-policy: "round-robbin" is no read policy; did you mean round-robin?`,
				"zeo.conf:19: finish-timeout: 0s is not between 1s and 24h0m0s",
				"zeo.conf:20: read-only: a mirror is always writable; put read-only into <zeo>",
				"zeo.conf:21: catch-up-ratio: 1 is not between 1.01 and 1000",
				"zeo.conf:22: catch-up-max-delay: 48h0m0s is not between 1ms and 24h0m0s",
				`zeo.conf:23: unknown key "quorum" in <raidstorage a/b>; known are state-dir, write-quorum, start-quorum, ` +
					"read-policy, auto-recover, spare-after, catch-up-ratio, catch-up-max-delay, scrub-interval, scrub-rate, scrub-repair, timeout, open-timeout, vote-timeout, finish-timeout, read-timeout, " +
					"pack-timeout, pack-compare-rate, read-only, cluster-mode, fail-mode, blob-dir, shared-blob-dir",
				"zeo.conf:24: scrub-interval: 1s is neither at least 1m0s nor off",
				"zeo.conf:25: scrub-rate: 5 is not between 1024 and 1099511627776",
				"zeo.conf:26: pack-timeout: 744h0m0s is not between 1s and 720h0m0s",
				"zeo.conf:27: pack-compare-rate: -1 is not between 0 and 9223372036854775807",
			}},
		{name: "mirror that packs in two ways", template: atEnd, text: "<raidstorage a>\n<filestorage x>\npath x\npack-gc off\n</filestorage>\n" +
			"<mappingstorage y/>\n<mappingstorage z/>\n<zeoclient c>\nserver 1\n</zeoclient>\n</raidstorage>",
			want: one(`zeo.conf:11: member "y": pack-gc is off for "x" and on for "y"; it must be the same for all`)},
		{name: "mirror that catches up somehow", template: atEnd, text: "<raidstorage a>\n<mappingstorage y/>\ncatch-up-ratio often\n</raidstorage>",
			want: one(`zeo.conf:8: catch-up-ratio: "often" is neither a number nor off`)},
		{name: "mirror without a full member", template: atEnd, text: "<raidstorage a>\n<mappingstorage y>\nrole asink\n</mappingstorage>\n" +
			"<mappingstorage z>\nrole spare\nbandwidth 1\n</mappingstorage>\nwrite-quorum 2\n</raidstorage>\n<mappingstorage 2>\nrole async\n</mappingstorage>",
			want: []string{
				`zeo.conf:8: role: "asink" is no role; known are full, async, spare`,
				"zeo.conf:10: bandwidth: it is for members with role async",
				"zeo.conf:14: write-quorum: 2 is not between 1 and 1",
				`zeo.conf:17: unknown key "role" in <mappingstorage 2>; known are name`,
			}},
		{name: "mirror of followers", template: atEnd, text: "<raidstorage a>\n<mappingstorage y>\nrole async\n</mappingstorage>\n</raidstorage>",
			want: one("zeo.conf:6: <raidstorage a> has no member with the role full")},
		{name: "mirror of nothing", template: atEnd, text: "<raidstorage a/>",
			want: one("zeo.conf:6: <raidstorage a> has no members; put sections such as <filestorage 1> into it")},
		{name: "log", template: atEnd, text: "<eventlog>\nlevel loud\n<logfile>\nlevel 51\nold-files 2\n</logfile>\n" +
			"<logfile>\npath STDOUT\nmax-size 1MB\n</logfile>\n<syslog/>\n</eventlog>",
			want: []string{
				`zeo.conf:7: level: "loud" is no level; known are critical, error, warning, info, blather, debug, trace, all`,
				"zeo.conf:8: <logfile> needs the key path",
				"zeo.conf:8: <logfile>: old-files needs the key max-size",
				"zeo.conf:9: level: 51 is not between 0 and 50",
				"zeo.conf:12: <logfile>: STDOUT cannot be rotated",
				"zeo.conf:16: <syslog> is not supported: log to a <logfile>, or to STDERR and let the service manager pass it on",
			}},
		{name: "byte order mark", text: "\ufeff<zeo>\naddress 1\n</zeo>",
			want: one("zeo.conf:1: the file begins with a byte order mark; remove it")},
		{name: "not UTF-8", text: "<zeo>\naddress 1\n# \xff\n</zeo>",
			want: one("zeo.conf:3: the file is not in UTF-8")},
		{name: "empty", text: "",
			want: []string{
				"zeo.conf:1: there is no section <zeo>, which says where to listen",
				"zeo.conf:1: there is no storage to serve; put one into a section such as <filestorage> or <raidstorage>",
			}},
		{name: "deep", text: strings.Repeat("<zeo>\n", 40),
			want: one("zeo.conf:33: more than 32 sections in each other")},
	}
}

func quoted(s string) string { return `"` + s + `"` }

// t0 is a file in the working directory.
func t0(name string) string {
	abs, err := filepath.Abs(name)
	if err != nil {
		return name
	}
	return abs
}

func TestFaultsAreToldWithTheirPlace(t *testing.T) {
	t.Parallel()
	for _, c := range faultCases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := config.Load(write(t, map[string]string{"zeo.conf": c.file()}), env(nil))
			all, ok := errors.AsType[*config.Error](err)
			if !ok {
				t.Fatalf("Load: %v", err)
			}
			if d := cmp.Diff(messages(all.Faults), c.want); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestManyFaultsAreCounted(t *testing.T) {
	t.Parallel()
	_, err := config.Load(write(t, map[string]string{"zeo.conf": strings.Repeat("(\n", 1000)}), env(nil))
	all, ok := errors.AsType[*config.Error](err)
	if !ok || len(all.Faults) != 101 || all.Faults[100].String() != "902 more faults" {
		t.Errorf("Load: %v", err)
	}
}

func TestAMissingFileSaysSo(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "zeo.conf")
	_, err := config.Load(path, env(nil))
	if !errors.Is(err, fs.ErrNotExist) || err.Error() != path+": no such file or directory" {
		t.Errorf("Load: %v", err)
	}
	if _, err := config.Load(filepath.Dir(path), env(nil)); err == nil {
		t.Error("a directory was read")
	}
}
