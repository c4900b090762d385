package filestorage

// DirOps is what Pack does with names.
type DirOps = dirOps

// OSDir is the file system.
func OSDir() DirOps { return osDir{} }

// SetDir puts a file system in the place of the real one.
func (s *Storage) SetDir(dir DirOps) { s.dir = dir }
