package raidstorage_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/zeoraid/raidstorage"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want raidstorage.Class
	}{
		{&raidstorage.NotFoundError{}, raidstorage.ClassAnswer},
		{&raidstorage.ConflictError{}, raidstorage.ClassAnswer},
		{&raidstorage.ReadConflictError{}, raidstorage.ClassAnswer},
		{&raidstorage.UndoError{}, raidstorage.ClassAnswer},
		{&raidstorage.ReadOnlyError{}, raidstorage.ClassRefusal},
		{&raidstorage.UnsupportedError{}, raidstorage.ClassRefusal},
		{errors.ErrUnsupported, raidstorage.ClassRefusal},
		{&raidstorage.InvalidError{}, raidstorage.ClassRefusal},
		{&raidstorage.TxnStateError{}, raidstorage.ClassRefusal},
		{&raidstorage.TIDOrderError{}, raidstorage.ClassRefusal},
		{&raidstorage.UnavailableError{}, raidstorage.ClassRefusal},
		{&raidstorage.UnavailableError{Err: &raidstorage.ConflictError{}}, raidstorage.ClassRefusal},
		{&raidstorage.OutcomeUnknownError{}, raidstorage.ClassUnknown},
		{&raidstorage.OutcomeUnknownError{Err: &raidstorage.ConflictError{}}, raidstorage.ClassUnknown},
		{raidstorage.ErrClosed, raidstorage.ClassFailure},
		{&raidstorage.CorruptError{}, raidstorage.ClassFailure},
		{&raidstorage.DivergedError{}, raidstorage.ClassFailure},
		{&raidstorage.ContradictionError{}, raidstorage.ClassFailure},
		{context.DeadlineExceeded, raidstorage.ClassFailure},
		{io.ErrUnexpectedEOF, raidstorage.ClassFailure},
	} {
		wrapped := fmt.Errorf("commit: %w", &raidstorage.BackendError{Backend: "b1", Op: "vote", Err: c.err})
		for _, err := range []error{c.err, wrapped} {
			if got := raidstorage.Classify(err); got != c.want {
				t.Errorf("Classify(%T, %v) = %v, want %v", err, err, got, c.want)
			}
		}
	}
}
