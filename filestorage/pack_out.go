package filestorage

import (
	"sync"
	"sync/atomic"
)

// packOut writes a new file from front to back. Another goroutine does the writing,
// and syncs now and then, so that little is left to sync while committers wait.
type packOut struct {
	f    file
	sync bool
	off  int64  // of buf in the file
	buf  []byte // not handed over yet
	free chan []byte
	todo chan outOp
	done sync.WaitGroup // the goroutine, which ends when todo is closed
	err  atomic.Pointer[error]
	// adopted is set when the storage has taken over f.
	adopted bool
	stopped bool // stop was called
}

// outOp is what the goroutine is to do next.
type outOp struct {
	off    int64
	b      []byte
	reuse  bool // b goes back to free
	sync   bool
	answer chan error // where to say that all so far is done, nil if nobody asks
}

const (
	outBuffers = 4
	// syncEvery is how many bytes the goroutine leaves to the system's memory.
	syncEvery = 32 << 20
)

func newPackOut(f file, sync bool) *packOut {
	o := &packOut{f: f, sync: sync, free: make(chan []byte, outBuffers), todo: make(chan outOp, outBuffers)}
	for range outBuffers - 1 {
		o.free <- make([]byte, 0, packBuffer)
	}
	o.buf = make([]byte, 0, packBuffer)
	o.done.Go(o.run) // stop waits
	return o
}

// run does what todo says. After an error it does nothing more.
func (o *packOut) run() {
	unsynced := 0
	for op := range o.todo {
		err := o.failed()
		if err == nil && len(op.b) > 0 {
			_, err = o.f.WriteAt(op.b, op.off)
			unsynced += len(op.b)
		}
		if err == nil && (op.sync || o.sync && unsynced >= syncEvery) {
			err = o.f.Sync()
			unsynced = 0
		}
		if err != nil {
			o.err.CompareAndSwap(nil, &err)
		}
		if op.reuse {
			o.free <- op.b[:0]
		}
		if op.answer != nil {
			op.answer <- err
		}
	}
}

// failed returns the first error of a write or sync. write and patch do not: those
// who call them look now and then.
func (o *packOut) failed() error {
	if err := o.err.Load(); err != nil {
		return *err
	}
	return nil
}

// pos is where the next byte goes.
func (o *packOut) pos() int64 { return o.off + int64(len(o.buf)) }

// write appends b, which is the caller's again afterwards.
func (o *packOut) write(b []byte) {
	for len(b) > cap(o.buf)-len(o.buf) {
		n := 0
		if len(b) > cap(o.buf) {
			n = cap(o.buf) - len(o.buf) // long: fill up; else keep together what may be patched
		}
		o.buf = append(o.buf, b[:n]...)
		b = b[n:]
		o.handOver()
	}
	o.buf = append(o.buf, b...)
}

func (o *packOut) handOver() {
	o.todo <- outOp{off: o.off, b: o.buf, reuse: true}
	o.off += int64(len(o.buf))
	o.buf = <-o.free
}

// patch writes b over what was written in one piece at pos.
func (o *packOut) patch(pos int64, b []byte) {
	if pos >= o.off {
		copy(o.buf[pos-o.off:], b)
		return
	}
	o.todo <- outOp{off: pos, b: append([]byte(nil), b...)}
}

// flush waits until all is in the file and, with sync, on the disk.
func (o *packOut) flush(sync bool) error {
	o.handOver()
	answer := make(chan error, 1)
	o.todo <- outOp{sync: sync, answer: answer}
	return <-answer
}

// stop ends the goroutine; the file stays open. Nothing may be called afterwards.
func (o *packOut) stop() {
	o.stopped = true
	close(o.todo)
	o.done.Wait()
}
