package config

import (
	"log/slog"
	"time"

	"github.com/zeoraid/raidstorage"
)

// Config is what a file, or Default, says. It may be changed before Open.
type Config struct {
	// Path is the file that was read, as Load was given it; empty for Default.
	Path     string
	Server   Server
	Storages []Storage // what is served, in the file's order; each has another name
	Log      Log
	Admin    Admin
	// Warnings name what the file says and what has no effect here, and directories of
	// mirrors' members that are missing.
	Warnings []Fault
}

// Pos is a place in a file. The zero value is no place.
type Pos struct {
	File string
	Line int // from 1
}

// Server is the <zeo> section.
type Server struct {
	Addresses []Address // at least one
	ReadOnly  bool
	// InvalidationQueueSize counts transactions; default 100.
	InvalidationQueueSize int
	// InvalidationAge is 0 when it is not used.
	InvalidationAge time.Duration
	// TransactionTimeout is 0 for none.
	TransactionTimeout time.Duration
	// ClientConflictResolution has clients resolve conflicts; default true, unlike ZEO,
	// whose server can resolve some itself.
	ClientConflictResolution bool
	Msgpack                  bool
	PIDFile                  string // empty: none is written
	TLS                      *TLS   // nil: plain
}

// Address is where to listen or to connect: a TCP host and port, or the path of a
// Unix socket.
type Address struct {
	Host string // of TCP; empty to listen on all
	Port int    // of TCP
	Path string // of a Unix socket; else empty
}

// TLS is an <ssl> section of a server or of a client.
type TLS struct {
	Certificate string // PEM file; for a client empty if it has none
	Key         string // PEM file; empty if it is in Certificate
	// Authenticate is a PEM file, or a directory of them, with the certificates that
	// sign those of the other side, or are them. Required for a server; empty for a
	// client means the system's.
	Authenticate string
	// CheckHostname and ServerHostname are a client's: whether the server's
	// certificate must be for this name, by default the host of the address.
	CheckHostname  bool
	ServerHostname string
}

// Storage is one storage with its name: one that is served, or a member of a mirror.
type Storage struct {
	Name string
	// Kind is a *FileStorage, *MemStorage, *ZEOClient or *Mirror.
	Kind Kind
	Pos  Pos // of its section
	// Role and Bandwidth are of a mirror's member, see raidstorage.Backend.
	Role      raidstorage.Role
	Bandwidth int64
}

// Kind is what a Storage is; this package alone implements it.
type Kind interface {
	kind()
}

// FileStorage is a <filestorage> section, with what a <blobstorage> around it says.
type FileStorage struct {
	Path        string
	BlobDir     string // empty: no blobs
	ReadOnly    bool
	PackGC      bool
	PackKeepOld bool
	// MakeDirs makes opening create the directories of Path and BlobDir.
	MakeDirs bool
}

// MemStorage is a <mappingstorage> section: a database in memory, lost at the end.
type MemStorage struct{}

// ZEOClient is a <zeoclient> or <clientstorage> section.
type ZEOClient struct {
	Servers          []Address // at least one
	Storage          string    // default "1"
	ReadOnly         bool
	ReadOnlyFallback bool
	// Wait tells whether opening waits for a server, at most WaitTimeout.
	Wait        bool
	WaitTimeout time.Duration // default 30 s
	CacheBytes  int64         // default 20 MiB
	Label       string
	// SharedBlobDir is the server's blob directory; empty: blobs are sent.
	SharedBlobDir string
	TLS           *TLS // nil: plain
}

// Mirror is a <raidstorage> section. Zero numbers and durations mean the defaults of
// raidstorage.Config.
type Mirror struct {
	Members     []Storage // at least one, each with another name
	StateDir    string
	WriteQuorum int
	StartQuorum int
	ReadPolicy  raidstorage.ReadPolicy
	AutoRecover bool
	CatchUp     raidstorage.CatchUp
	Scrub       raidstorage.Scrub
	Timeouts    raidstorage.Timeouts
	// CompareBytesPerSecond is raidstorage.Config's.
	CompareBytesPerSecond int64
	// Force names members to trust although others may hold more, see
	// raidstorage.Config. No file says it: it is for one start.
	Force []string
}

// Log is the <eventlog> section. The default is level info. Without Files the log goes
// to standard error.
type Log struct {
	Level slog.Level
	Files []LogFile
}

// LogFile is one <logfile> of the <eventlog>.
type LogFile struct {
	Path  string // a file, or STDOUT or STDERR
	Level slog.Level
	JSON  bool // else text
	// MaxBytes is after how many bytes a file becomes Path.1, and Path.1 Path.2, up to
	// OldFiles of them; 0: never.
	MaxBytes int64
	OldFiles int
}

// Standard tells whether the log goes to one of the standard streams.
func (f LogFile) Standard() bool { return f.Path == "STDOUT" || f.Path == "STDERR" }

// Admin is the <admin> section.
type Admin struct {
	// Address is where status and control are served over HTTP; nil: not at all.
	Address *Address
}

func (*FileStorage) kind() {}
func (*MemStorage) kind()  {}
func (*ZEOClient) kind()   {}
func (*Mirror) kind()      {}
