package zeoserver

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// Each commit tells its client the size of the storage. A storage in this process
// knows it at once. One behind a network asks for it, which no commit can wait for: its
// clients are told what was known a moment ago.

const (
	sizeTime  = 5 * time.Second       // bounds one question
	quickSize = 30 * time.Microsecond // what one takes that every commit may ask
	waitSize  = 20 * time.Millisecond // bounds a question that a commit waits for
	sizeAge   = time.Second           // of what is told, if it takes longer
	sizeTries = 8                     // the quickest of so many counts, as any may be disturbed
)

// sizes is what is known of a storage's size.
type sizes struct {
	mu     sync.Mutex // guards the fields below
	known  [2]int64   // objects, bytes
	asked  time.Time  // when known was
	took   [sizeTries]time.Duration
	number int // of questions
}

// size asks for the number of objects and the bytes of the storage, 0 if unknown.
func (st *served) size(ctx context.Context) (objects, bytes int64) {
	return st.sizeWithin(ctx, sizeTime)
}

func (st *served) sizeWithin(ctx context.Context, limit time.Duration) (objects, bytes int64) {
	sizer, err := raidstorage.Can[raidstorage.Sizer](st.storage)
	if err != nil {
		return 0, 0
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	start := time.Now()
	objects, bytes, err = sizer.Size(ctx)
	end := time.Now()
	s := &st.sizes
	s.mu.Lock()
	defer s.mu.Unlock()
	s.took[s.number%sizeTries] = end.Sub(start)
	s.number++
	s.asked = end
	if err == nil {
		s.known = [2]int64{objects, bytes}
	}
	return s.known[0], s.known[1]
}

// recentSize is what commits tell. If it is old, stale says that it is time to ask,
// when the client has its answer.
func (st *served) recentSize(ctx context.Context) (objects, bytes int64, stale bool) {
	s := &st.sizes
	s.mu.Lock()
	if s.number >= sizeTries && slices.Min(s.took[:]) > quickSize { // before, chance may have slowed all
		defer s.mu.Unlock()
		return s.known[0], s.known[1], time.Since(s.asked) > sizeAge
	}
	s.mu.Unlock()
	objects, bytes = st.sizeWithin(ctx, waitSize)
	return objects, bytes, false
}

// sizeInfo is the call info.
func sizeInfo(objects, bytes int64) zeowire.Message {
	return zeowire.AsyncCall(zeowire.Info,
		zeowire.Dict(zeowire.Entry("length", zeowire.Int(objects)), zeowire.Entry("size", zeowire.Int(bytes))))
}
