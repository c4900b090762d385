package config

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"
)

// The datatypes are ZConfig 4.3's, see its datatypes.py. Numbers are those of Python's
// int and float: with "_" between digits and space around. Beyond 64 bits they are
// faults, where Python goes on.

func parseInt(s string) (int64, error) {
	s = strings.TrimSpace(s)
	digits := strings.TrimPrefix(strings.TrimPrefix(s, "-"), "+")
	if len(s)-len(digits) > 1 || !digitGroups(digits) {
		return 0, fmt.Errorf("%s is not an integer", quote(s))
	}
	n, err := strconv.ParseInt(strings.ReplaceAll(s, "_", ""), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is out of range", quote(s))
	}
	return n, nil
}

// digitGroups tells whether s is digits, with single "_" between them.
func digitGroups(s string) bool {
	for group := range strings.SplitSeq(s, "_") {
		if group == "" || strings.Trim(group, "0123456789") != "" {
			return false
		}
	}
	return true
}

// parseSeconds reads a float, which must be a finite number of seconds.
func parseSeconds(s string) (time.Duration, error) {
	s = strings.TrimSpace(s)
	plain := s
	for i := 1; i < len(s)-1; i++ { // "_" stands between digits only
		if s[i] == '_' && isDigit(s[i-1]) && isDigit(s[i+1]) {
			plain = strings.ReplaceAll(s, "_", "")
		} else if s[i] == '_' {
			return 0, fmt.Errorf("%s is not a number", quote(s))
		}
	}
	f, err := strconv.ParseFloat(plain, 64)
	hex := strings.ContainsAny(s, "xXpP")
	if err != nil && !errors.Is(err, strconv.ErrRange) || hex {
		return 0, fmt.Errorf("%s is not a number", quote(s))
	}
	if math.IsNaN(f) || math.Abs(f) > maxDuration.Seconds() {
		return 0, fmt.Errorf("%s is out of range", quote(s))
	}
	return time.Duration(f * float64(time.Second)), nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// maxDuration bounds all durations, so that no arithmetic with them overflows.
const maxDuration = 100 * 365 * 24 * time.Hour

func parseBool(s string) (bool, error) {
	switch lower(s) {
	case "yes", "true", "on":
		return true, nil
	case "no", "false", "off":
		return false, nil
	}
	return false, fmt.Errorf("%s is neither yes, true, on nor no, false, off", quote(s))
}

// parseSuffixed reads an integer with an optional suffix that multiplies it.
func parseSuffixed(s string, suffixes map[string]int64) (int64, error) {
	s, factor := lower(s), int64(1)
	for suffix, f := range suffixes {
		if rest, ok := strings.CutSuffix(s, suffix); ok {
			s, factor = rest, f
			break
		}
	}
	n, err := parseInt(s)
	if err != nil {
		return 0, err
	}
	if n > math.MaxInt64/factor || n < math.MinInt64/factor {
		return 0, fmt.Errorf("%s is out of range", quote(s))
	}
	return n * factor, nil
}

// parseBytes is byte-size: bytes, or KB, MB, GB in powers of 1024.
func parseBytes(s string) (int64, error) {
	return parseSuffixed(s, map[string]int64{"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30})
}

// parseInterval is time-interval: seconds, or s, m, h, d.
func parseInterval(s string) (time.Duration, error) {
	n, err := parseSuffixed(s, map[string]int64{"s": 1, "m": 60, "h": 3600, "d": 86400})
	if err != nil {
		return 0, err
	}
	return seconds(n)
}

func seconds(n int64) (time.Duration, error) {
	if n > int64(maxDuration/time.Second) || n < 0 {
		return 0, fmt.Errorf("%d s is out of range", n)
	}
	return time.Duration(n) * time.Second, nil
}

// parsePath is existing-dirpath: what may not exist yet, in a directory that does. "~"
// at the beginning is a home directory.
func (l *loader) parsePath(s string) (string, error) {
	path := l.expandHome(s)
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return path, nil
	}
	dir := path[:i+1]
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return "", fmt.Errorf("the directory of %s does not exist", quote(path))
	}
	return path, nil
}

// expandHome replaces "~" and "~name" at the beginning, if there is such a user.
func (l *loader) expandHome(path string) string {
	if !strings.HasPrefix(path, "~") {
		return path
	}
	name, _, _ := strings.Cut(path[1:], "/")
	var home string
	if name == "" {
		home, _ = l.getenv("HOME")
		if u, err := user.Current(); home == "" && err == nil {
			home = u.HomeDir
		}
	} else if u, err := user.Lookup(name); err == nil {
		home = u.HomeDir
	}
	if home == "" {
		return path
	}
	return or(strings.TrimRight(home, "/")+path[1+len(name):], "/")
}
