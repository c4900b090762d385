package config

import (
	"math"
	"slices"
	"strings"
	"time"
)

// builder makes a Config of what the parser read.
type builder struct {
	l        *loader
	warnings faults
	config   *Config
	claims   map[string]Pos // directories and files that only one storage may use
	mirrors  int            // how many <raidstorage> are around what is being read
	member   *Storage       // what is being read
}

// build reads the whole file.
func (b *builder) build(root *node) {
	c, s := b.config, b.section(root)
	if n := s.only("zeo"); n != nil {
		c.Server = b.server(n)
	} else {
		s.fault(root.pos, "there is no section <zeo>, which says where to listen")
	}
	storages := s.sections(storageTypes()...)
	for _, n := range storages {
		c.Storages = append(c.Storages, b.storage(n, c.Path))
	}
	b.nameUnnamed()
	if n := s.only("eventlog"); n != nil {
		c.Log = b.log(n)
	}
	if n := s.only("runner"); n != nil {
		b.runner(n)
	}
	if n := s.only("admin"); n != nil {
		c.Admin = b.admin(n)
	}
	// An unknown section may have been meant as one; that is reported by end.
	unknown := slices.ContainsFunc(root.subs, func(n *node) bool { return !s.taken[n] })
	if len(storages) == 0 && !unknown {
		s.fault(root.pos, "there is no storage to serve; put one into a section such as <filestorage> or <raidstorage>")
	}
	s.end()
}

// nameUnnamed calls the storage without a name "1", as ZEO does.
func (b *builder) nameUnnamed() {
	all := b.config.Storages
	for i := range all {
		if all[i].Name != "" {
			continue
		}
		all[i].Name = "1"
		for j := range all {
			if j != i && all[j].Name == "1" {
				b.l.faults.add(all[i].Pos, "a storage without a name is named 1, as another one is", "")
				return
			}
		}
	}
}

func (b *builder) server(n *node) Server {
	s := b.section(n)
	defer s.end()
	v := Server{InvalidationQueueSize: defaultQueueSize}
	s.require("address")
	for _, e := range s.all("address") { // ZEO takes one only
		if e.bad {
			continue
		}
		a, err := parseAddress(e.value, "")
		if err != nil {
			s.fault(e.pos, "address: %v", err)
			continue
		}
		v.Addresses = append(v.Addresses, a)
	}
	s.boolean("read-only", &v.ReadOnly)
	s.integer("invalidation-queue-size", &v.InvalidationQueueSize, 1, 10_000_000)
	s.duration("invalidation-age", &v.InvalidationAge, parseSeconds, 0, maxDuration)
	s.duration("transaction-timeout", &v.TransactionTimeout, func(text string) (time.Duration, error) {
		n, err := parseInt(text)
		if err != nil {
			return 0, err
		}
		return seconds(n)
	}, time.Second, maxDuration)
	// ZEO's default is off, as its server resolves conflicts with the classes that it
	// has. Ours has none: without the clients no counter of a BTree could be changed twice.
	v.ClientConflictResolution = true
	s.boolean("client-conflict-resolution", &v.ClientConflictResolution)
	if _, given := s.boolean("msgpack", &v.Msgpack); !given {
		env, _ := b.l.getenv("ZEO_MSGPACK") // any text, as in ZEO
		v.Msgpack = env != ""
	}
	s.path("pid-filename", &v.PIDFile)
	s.ignore("monitor-address", "there is no monitor server any more, see <admin>", func(text string) error {
		_, err := parseAddress(text, "")
		return err
	})
	for _, key := range []string{"authentication-protocol", "authentication-database", "authentication-realm"} {
		s.refuse(key, "ZEO 5 and later have no authentication by password; use <ssl>")
	}
	if n := s.only("ssl"); n != nil {
		v.TLS = b.tls(n, true)
	}
	return v
}

// tls reads the <ssl> of a server or of a client.
func (b *builder) tls(n *node, server bool) *TLS {
	s := b.section(n)
	defer s.end()
	v, before := &TLS{CheckHostname: !server}, len(b.l.faults.all)
	s.require("certificate")
	s.path("certificate", &v.Certificate)
	s.path("key", &v.Key)
	s.refuse("password-function", "it names a function in Python; store the key without a password")
	if server {
		s.require("authenticate")
	} else {
		s.boolean("check-hostname", &v.CheckHostname)
		s.text("server-hostname", &v.ServerHostname)
	}
	pos, given := s.path("authenticate", &v.Authenticate)
	if given && slices.Contains([]string{"DYNAMIC", "SIGNED", "-"}, v.Authenticate) {
		s.fault(pos, "authenticate: %s is not supported; name a file or directory of certificates", v.Authenticate)
	}
	if len(b.l.faults.all) == before { // what the files hold is checked now, as ZEO does
		if _, err := v.config(server); err != nil {
			s.fault(n.pos, "%s: %v", s.title(), err)
		}
	}
	return v
}

func (b *builder) admin(n *node) Admin {
	s := b.section(n)
	defer s.end()
	var v Admin
	var a Address
	s.require("address")
	if _, ok := read(s, "address", &a, func(text string) (Address, error) { return parseAddress(text, "127.0.0.1") }); ok {
		v.Address = &a
	}
	return v
}

// runner reads zdaemon's section, of which nothing has a meaning: a service manager
// starts us. Paths are not looked at, for the programs need not be here.
func (b *builder) runner(n *node) {
	s := b.section(n)
	defer s.end()
	for _, key := range strings.Fields("program python zdrun socket-name directory exit-codes" +
		" start-test-program user umask logfile transcript prompt") {
		s.one(key)
	}
	for _, key := range strings.Fields("daemon forever hang-around default-to-interactive") {
		var ignored bool
		s.boolean(key, &ignored)
	}
	for _, key := range strings.Fields("backoff-limit start-timeout stop-timeout") {
		var ignored int
		s.integer(key, &ignored, 0, math.MaxInt32)
	}
	if log := s.only("eventlog"); log != nil {
		b.log(log)
	}
	b.warnings.add(n.pos, "<runner> has no effect: a service manager starts the server", "")
}
