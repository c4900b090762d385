package admin

import (
	"context"

	"github.com/zeoraid/raidstorage"
)

// verifyMirror is Mirror.Verify.
func verifyMirror(ctx context.Context, m *raidstorage.Mirror, q Request, progress func(Verify)) (*Report, error) {
	return nil, &raidstorage.UnsupportedError{Storage: m.Name(), Capability: "Verify"}
}
