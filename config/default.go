package config

import (
	"path/filepath"
)

// Default is the configuration of a server that was given none: a mirror named
// storageName over two native file storages with blobs, dataDir/1/Data.fs with
// dataDir/1/blobs and likewise 2, its state in dataDir/state. listen is the address
// for ZEO clients, admin that of the control, both as a file has them. Empty arguments
// mean "zeoraid-data", "127.0.0.1:8100", "127.0.0.1:8180" and "1". An *Error says
// which address is none.
func Default(dataDir, listen, admin, storageName string) (*Config, error) {
	dataDir = or(dataDir, "zeoraid-data")
	storageName = or(storageName, "1")
	zeo, err := ParseAddress(or(listen, "127.0.0.1:8100"))
	if err != nil {
		return nil, err
	}
	control, err := ParseAddress(or(admin, "127.0.0.1:8180"))
	if err != nil {
		return nil, err
	}
	mirror := &Mirror{StateDir: filepath.Join(dataDir, "state"), AutoRecover: true}
	for _, name := range []string{"1", "2"} {
		mirror.Members = append(mirror.Members, Storage{Name: name, Kind: &FileStorage{
			Path:        filepath.Join(dataDir, name, "Data.fs"),
			BlobDir:     filepath.Join(dataDir, name, "blobs"),
			PackGC:      true,
			PackKeepOld: true,
			MakeDirs:    true,
		}})
	}
	return &Config{
		Server: Server{
			Addresses: []Address{zeo}, InvalidationQueueSize: defaultQueueSize, ClientConflictResolution: true,
		},
		Storages: []Storage{{Name: storageName, Kind: mirror}},
		Admin:    Admin{Address: &control},
	}, nil
}

// defaultQueueSize is ZEO's default of invalidation-queue-size.
const defaultQueueSize = 100

func or(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}
