package config

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/zeoraid/raidstorage"
)

// storageTypes are the section types that make a storage, or that say why they do not.
func storageTypes() []string {
	return []string{
		"filestorage", "raidstorage", "zeoclient", "clientstorage", "mappingstorage", "blobstorage",
		"demostorage", "fullstorage", "minimalstorage",
	}
}

// storage reads one storage. scope is a path beside which it may keep files of its
// own: that of the file, or of the mirror that it is a member of.
func (b *builder) storage(n *node, scope string) Storage {
	v := Storage{Name: n.name, Pos: n.pos}
	b.member = &v
	switch n.typ {
	case "filestorage":
		v.Kind = b.fileStorage(n, "")
	case "blobstorage":
		v.Kind = b.blobStorage(n)
	case "mappingstorage":
		s := b.section(n)
		b.roles(s)
		s.ignore("name", "the section's name is used", nil)
		s.end()
		v.Kind = &MemStorage{}
	case "zeoclient", "clientstorage":
		v.Kind = b.client(n)
	case "raidstorage":
		v.Kind = b.mirror(n, scope)
	case "demostorage":
		b.l.faults.add(n.pos, "<demostorage> is not supported: serve its base with a Python server", "")
	default:
		b.l.faults.add(n.pos, fmt.Sprintf("<%s> is not supported: Berkeley DB storages are long gone", n.typ), "")
	}
	return v
}

// fileStorage reads a <filestorage>. blobDir is that of a <blobstorage> around it.
func (b *builder) fileStorage(n *node, blobDir string) *FileStorage {
	s := b.section(n)
	defer s.end()
	v := &FileStorage{BlobDir: blobDir, PackGC: true, PackKeepOld: true}
	b.roles(s)
	s.require("path")
	if pos, ok := b.storagePath(s, "path", &v.Path); ok {
		if v.Path == "" {
			s.fault(pos, "path: it is empty")
		}
		b.claim(pos, v.Path, "the file")
	}
	if pos, ok := b.storagePath(s, "blob-dir", &v.BlobDir); ok {
		if blobDir != "" {
			s.fault(pos, "blob-dir: the <blobstorage> around has one, too")
		}
		b.claim(pos, v.BlobDir, "the blob directory")
	}
	var create bool
	if pos, _ := s.boolean("create", &create); create {
		s.fault(pos, "create: true would delete the database at each start; leave it out, a missing file is made")
	}
	s.boolean("read-only", &v.ReadOnly)
	s.refuse("quota", "a limit of the file's size is not supported")
	s.ignore("packer", "packing is always our own", nil)
	s.boolean("pack-gc", &v.PackGC)
	s.boolean("pack-keep-old", &v.PackKeepOld)
	return v
}

// storagePath reads a path of a file storage. The directory of a mirror's member may be
// missing, with its disk: the mirror starts without the member then, if it can.
func (b *builder) storagePath(s *section, key string, field *string) (Pos, bool) {
	if b.mirrors == 0 {
		return s.path(key, field)
	}
	pos, ok := read(s, key, field, b.l.parsePlainPath)
	if ok {
		if _, err := b.l.parsePath(*field); err != nil {
			b.warnings.add(pos, fmt.Sprintf("%s: %v", key, err), "")
		}
	}
	return pos, ok
}

// blobStorage reads the old way of giving a storage blobs.
func (b *builder) blobStorage(n *node) Kind {
	s := b.section(n)
	defer s.end()
	var dir string
	s.require("blob-dir")
	if pos, ok := read(s, "blob-dir", &dir, b.l.parsePlainPath); ok {
		if dir == "" {
			s.fault(pos, "blob-dir: it is empty")
		}
		b.claim(pos, dir, "the blob directory")
	}
	base := s.only(storageTypes()...)
	switch {
	case base == nil:
		s.fault(n.pos, "%s needs a <filestorage> in it", s.title())
	case base.typ != "filestorage":
		s.fault(base.pos, "only a <filestorage> can be in %s, not <%s>", s.title(), base.typ)
	default:
		return b.fileStorage(base, dir)
	}
	return nil
}

// claim reports a file or directory that two storages would use.
func (b *builder) claim(pos Pos, path, what string) {
	if path == "" {
		return
	}
	path = absolute(path)
	if first, ok := b.claims[path]; ok {
		b.l.faults.add(pos, fmt.Sprintf("%s %s is used in line %d already", what, quote(path), first.Line), "")
		return
	}
	b.claims[path] = pos
}

// client reads a <zeoclient>, ZODB's, or <clientstorage>, ZEO's: the keys of both.
func (b *builder) client(n *node) *ZEOClient {
	s := b.section(n)
	defer s.end()
	v := &ZEOClient{Storage: "1", Wait: true, WaitTimeout: 30 * time.Second, CacheBytes: 20 << 20}
	b.roles(s)
	s.require("server")
	for _, e := range s.all("server") {
		if e.bad {
			continue
		}
		a, err := parseAddress(e.value, "127.0.0.1")
		if err == nil && a.Path == "" && a.Port == 0 {
			err = fmt.Errorf("%s has no port", quote(e.value))
		}
		if err != nil {
			s.fault(e.pos, "server: %v", err)
			continue
		}
		v.Servers = append(v.Servers, a)
	}
	if pos, ok := s.text("storage", &v.Storage); ok && v.Storage == "" {
		s.fault(pos, "storage: it is empty")
	}
	s.bytes("cache-size", &v.CacheBytes, 0, math.MaxInt64)
	s.boolean("wait", &v.Wait)
	s.duration("wait-timeout", &v.WaitTimeout, parseWholeSeconds, 0, maxDuration)
	s.boolean("read-only", &v.ReadOnly)
	pos, _ := s.boolean("read-only-fallback", &v.ReadOnlyFallback)
	if v.ReadOnly && v.ReadOnlyFallback {
		s.fault(pos, "read-only-fallback: read-only is on, too; choose one")
	}
	s.text("client-label", &v.Label)
	var shared bool
	if pos, _ := s.boolean("shared-blob-dir", &shared); shared {
		if _, ok := b.storagePath(s, "blob-dir", &v.SharedBlobDir); !ok || v.SharedBlobDir == "" {
			s.fault(pos, "shared-blob-dir: blob-dir is missing, which is the server's directory then")
		}
	} else {
		s.ignore("blob-dir", "blobs are not cached on disk", nil)
	}
	b.clientIgnored(s)
	if n := s.only("ssl"); n != nil {
		v.TLS = b.tls(n, false)
		unix := slices.ContainsFunc(v.Servers, func(a Address) bool { return a.Path != "" })
		if unix && v.TLS.CheckHostname && v.TLS.ServerHostname == "" {
			s.fault(n.pos, "<ssl> needs the key server-hostname, for a Unix socket has no host name")
		}
	}
	return v
}

// clientIgnored are the keys of ZEO's clients without effect.
func (b *builder) clientIgnored(s *section) {
	s.ignore("name", "the section's name is used", nil)
	for _, key := range []string{"client", "var", "cache-path"} {
		s.ignore(key, "the cache is in memory", nil)
	}
	s.ignore("blob-cache-size", "blobs are not cached", isBytes)
	s.ignore("blob-cache-size-check", "blobs are not cached", isInt)
	for _, key := range []string{"min-disconnect-poll", "max-disconnect-poll"} {
		s.ignore(key, "the pauses between attempts are fixed", isInt)
	}
	for _, key := range []string{"username", "password", "realm"} {
		s.ignore(key, "ZEO 5 and later have no authentication by password; use <ssl>", nil)
	}
	s.ignore("drop-cache-rather-verify", "the cache is always verified", isBool)
	s.ignore("server-sync", "invalidations are always waited for", isBool)
}

func parseWholeSeconds(text string) (time.Duration, error) {
	n, err := parseInt(text)
	if err != nil {
		return 0, err
	}
	return seconds(n)
}

// parseReadPolicy reads the words that logs and the documentation use.
func parseReadPolicy(text string) (raidstorage.ReadPolicy, error) {
	policies := map[string]raidstorage.ReadPolicy{
		"round-robin":   raidstorage.RoundRobin,
		"least-latency": raidstorage.LeastLatency,
		"primary-first": raidstorage.PrimaryFirst,
	}
	if p, ok := policies[lower(text)]; ok {
		return p, nil
	}
	words := []string{"round-robin", "least-latency", "primary-first"}
	return 0, fmt.Errorf("%s is no read policy; %s", quote(text), suggest(text, words))
}

// stateDir is where a mirror keeps its record if the file does not say.
func stateDir(scope, name string) (string, bool) {
	if name == "" || strings.ContainsAny(name, `/\`) || strings.HasPrefix(name, ".") {
		return "", false
	}
	return filepath.Join(filepath.Dir(scope), name+"-state"), true
}
