package config

import "errors"

// ParseAddress reads an address to listen on: "host:port", ":port", "port",
// "[IPv6]:port", or the path of a Unix socket, with a slash.
func ParseAddress(s string) (Address, error) {
	_ = s
	return Address{}, errors.ErrUnsupported
}
