// Package blobdir knows how Python's ZODB.blob lays out the files of blobs, for those who
// keep them and for those who share the directory of a server. See the comment in
// filestorage/blob_layout.go.
package blobdir

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/zeoraid/raidstorage"
)

const (
	// Marker is the file with the name of the layout.
	Marker = ".layout"
	// Bushy has a directory level for each byte of an oid.
	Bushy = "bushy"
	// Lawn has one directory for each oid.
	Lawn = "lawn"
	// Suffix ends the names of blobs.
	Suffix = ".blob"
)

// LayoutOf finds out the layout of the directory at path, by the rules of Python's
// auto_layout_select, and whether the marker says so. With fs.ErrNotExist it is
// the one that a new directory gets. *raidstorage.InvalidError for an unknown layout.
func LayoutOf(path string) (layout string, marked bool, err error) {
	b, err := os.ReadFile(filepath.Join(path, Marker))
	if err == nil {
		layout = string(bytes.TrimSpace(b))
		if layout != Bushy && layout != Lawn {
			return "", true, &raidstorage.InvalidError{Op: "open blob directory " + path, Reason: fmt.Sprintf("unknown layout %q", layout)}
		}
		return layout, true, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", false, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return Bushy, false, err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			return Lawn, false, nil // it is older than the marker
		}
	}
	return Bushy, false, nil
}

// Folder returns the path of the directory with oid's blobs, relative to the blob
// directory.
func Folder(layout string, oid raidstorage.OID) string {
	b := oid.Bytes()
	if layout == Lawn {
		return ShortHex(b)
	}
	name := make([]byte, 0, len(b)*len("0x00/"))
	for i := range b {
		if i > 0 {
			name = append(name, filepath.Separator)
		}
		name = append(name, '0', 'x')
		name = hex.AppendEncode(name, b[i:i+1])
	}
	return string(name)
}

// File returns the path of the blob of the revision of oid that tid wrote, likewise.
func File(layout string, oid raidstorage.OID, tid raidstorage.TID) string {
	return filepath.Join(Folder(layout, oid), ShortHex(tid.Bytes())+Suffix)
}

// ShortHex is Python's oid_repr: without leading zero bytes, but for the last.
func ShortHex(b [8]byte) string {
	digits := b[:]
	for len(digits) > 1 && digits[0] == 0 {
		digits = digits[1:]
	}
	return "0x" + hex.EncodeToString(digits)
}
