package admin

import (
	"context"

	"github.com/zeoraid/raidstorage"
)

// SetVerifier replaces Mirror.Verify.
func (s *Server) SetVerifier(v func(ctx context.Context, m *raidstorage.Mirror, q Request, progress func(Verify)) (*Report, error)) {
	s.verifier = v
}
