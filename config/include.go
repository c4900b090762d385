package config

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Bounds of what is read: %include makes one file of many.
const (
	maxBytes    = 1 << 20 // of all files together
	maxFiles    = 256
	maxIncludes = 16 // in each other
)

// loader is the state that the files of one configuration share.
type loader struct {
	getenv   func(string) (string, bool)
	defines  map[string]string // by name in lower case
	expanded int               // bytes that substitution made
	bytes    int64             // read so far
	files    int
	faults   faults
}

// include reads another file in the place of the directive. As in ZConfig its path is
// relative to the file that names it, and may be a URL of a file.
func (p *parser) include(arg string) {
	name, err := p.loader.substitute(arg)
	if err == nil {
		name, err = includedPath(p.file, name)
	}
	if err != nil {
		p.fault("%%include: %v", err)
		return
	}
	if len(p.chain) > maxIncludes {
		p.fault("%%include: more than %d files include each other", maxIncludes)
		return
	}
	abs := absolute(name)
	if slices.Contains(p.chain, abs) {
		p.fault("%%include: %s includes itself", quote(name))
		return
	}
	text, err := p.loader.read(name)
	if err != nil {
		p.fault("%%include: %v", err)
		return
	}
	sub := &parser{
		loader: p.loader, file: name, outer: p.outer + len(p.stack) - 1,
		chain: append(slices.Clone(p.chain), abs), stack: []*node{p.top()},
	}
	sub.parse(text)
	p.stop = sub.stop
}

// includedPath is the file that %include name in base means.
func includedPath(base, name string) (string, error) {
	scheme, rest, isURL := strings.Cut(name, "://")
	switch {
	case isURL && lower(scheme) == "file":
		_, path, ok := strings.Cut(rest, "/")
		if !ok {
			return "", fmt.Errorf("%s names no file", quote(name))
		}
		name = "/" + path
	case isURL:
		return "", fmt.Errorf("%s: only files can be included", quote(name))
	}
	name, fragment, _ := strings.Cut(name, "#")
	if fragment != "" {
		return "", fmt.Errorf("%s: a path must not have a \"#\" in it", quote(name+"#"+fragment))
	}
	// ZConfig goes by way of URLs, from which Python removes these.
	name = strings.NewReplacer("\t", "", "\r", "", "\n", "").Replace(name)
	if plain, err := url.PathUnescape(name); err == nil {
		name = plain
	}
	if strings.ContainsRune(name, 0) || strings.HasSuffix(name, "/") {
		return "", fmt.Errorf("%s is no path", quote(name))
	}
	if filepath.IsAbs(name) {
		return filepath.Clean(name), nil
	}
	return filepath.Join(filepath.Dir(base), name), nil
}

// absolute identifies a file; a symbolic link that makes a cycle is stopped by the
// bounds.
func absolute(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return filepath.Clean(path)
	}
	return abs
}

// read returns the contents of a file, within the bounds.
func (l *loader) read(path string) (string, error) {
	if l.files++; l.files > maxFiles {
		return "", fmt.Errorf("more than %d files", maxFiles)
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is no file", quote(path))
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxBytes-l.bytes+1))
	err = errors.Join(err, f.Close())
	l.bytes += int64(len(text))
	switch {
	case err != nil:
		return "", err
	case l.bytes > maxBytes:
		return "", fmt.Errorf("%s makes the configuration longer than %d bytes", quote(path), maxBytes)
	}
	return string(text), nil
}
