package config

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// ParseAddress reads an address to listen on as ZConfig's socket-binding-address does:
// "host:port", ":port", "port", "[IPv6]:port", an IPv6 address or a host without port,
// or the path of a Unix socket, with a slash. An *Error says why it is none.
func ParseAddress(s string) (Address, error) {
	a, err := parseAddress(strip(s), "")
	if err != nil {
		return Address{}, &Error{Faults: []Fault{{Message: err.Error()}}}
	}
	return a, nil
}

// parseAddress reads an address whose host is defaultHost if it has none.
func parseAddress(s, defaultHost string) (Address, error) {
	if s == "" {
		return Address{}, fmt.Errorf("the address is empty")
	}
	if strings.Contains(s, "/") {
		return Address{Path: s}, nil
	}
	host, port, err := splitAddress(s)
	if err != nil {
		return Address{}, err
	}
	if strings.ContainsFunc(host, isSpace) {
		return Address{}, fmt.Errorf("%s is not a valid host name", quote(host))
	}
	return Address{Host: or(lower(host), defaultHost), Port: port}, nil
}

func splitAddress(s string) (host string, port int, err error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		if n, err := parseInt(s); err == nil {
			port, err := checkPort(n)
			return "", port, err
		}
		return s, 0, nil
	}
	host, text := s[:i], s[i+1:]
	inner, bracketed := bracketless(host)
	switch {
	case bracketed:
		host = inner
	case strings.Contains(host, ":"): // IPv6; its last part is no port
		host, text = s, ""
		if inner, ok := bracketless(s); ok {
			host = inner
		}
	}
	if text == "" {
		return host, 0, nil
	}
	n, err := parseInt(text)
	if err != nil {
		return "", 0, fmt.Errorf("the port %w", err)
	}
	port, err = checkPort(n)
	return host, port, err
}

func bracketless(host string) (string, bool) {
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") && len(host) > 1 {
		return host[1 : len(host)-1], true
	}
	return host, false
}

func checkPort(n int64) (int, error) {
	if n < 0 || n > 0xffff {
		return 0, fmt.Errorf("port %d is not between 0 and 65535", n)
	}
	return int(n), nil
}

// String returns the form that net.Dial and net.Listen take: the path, or "host:port".
func (a Address) String() string {
	if a.Path != "" {
		return a.Path
	}
	return net.JoinHostPort(a.Host, strconv.Itoa(a.Port))
}

// Network returns "unix" or "tcp".
func (a Address) Network() string {
	if a.Path != "" {
		return "unix"
	}
	return "tcp"
}
