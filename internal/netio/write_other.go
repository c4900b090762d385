//go:build !unix

package netio

import "errors"

const supported = false

func write(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }

func verdict(error) (full, again bool) { return false, false }
