package filestorage

import "os"

// SetBlobSync replaces what makes files and directories of blobs durable. The storage
// must not be in use.
func SetBlobSync(s *Storage, sync func(*os.File) error) { s.blobs.syncFile = sync }
