package loadgen

import (
	"fmt"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
)

// loader loads objects, one after the other, with some requests on the way.
type loader struct {
	*conn
	oids     []raidstorage.OID
	next     int
	inFlight int
	started  []time.Time // by id, modulo its length
}

func (l *loader) work(until time.Time) error {
	l.started = make([]time.Time, l.inFlight)
	now := time.Now()
	waiting := 0
	for range l.inFlight {
		if err := l.ask(now); err != nil {
			return err
		}
		waiting++
	}
	for waiting > 0 {
		if l.in.Buffered() == 0 && l.out.Len() > 0 {
			if err := l.flush(); err != nil {
				return err
			}
		}
		id, _, err := l.reply()
		if err != nil {
			return err
		}
		waiting--
		now = time.Now()
		n, ok := id.Int()
		if !ok {
			return fmt.Errorf("reply with the id %v", id)
		}
		slot := int(n) % l.inFlight
		l.done(l.started[slot], now)
		if now.Before(until) {
			if err := l.askAs(n, now); err != nil {
				return err
			}
			waiting++
		}
	}
	return nil
}

// ask writes a request with a new id.
func (l *loader) ask(now time.Time) error {
	l.calls++
	return l.askAs(l.calls, now)
}

// askAs writes a request with the id of one that was answered.
func (l *loader) askAs(id int64, now time.Time) error {
	l.started[int(id)%l.inFlight] = now
	oid := l.oids[l.next%len(l.oids)]
	l.next += 7 // not in the order in which they were stored
	return l.out.LoadBefore(zeowire.IntID(id), oid, raidstorage.MaxTID)
}

// writer commits transactions of its own objects, so that writers never conflict.
type writer struct {
	*conn
	data   []byte
	oids   []raidstorage.OID
	serial raidstorage.TID // of all of them
	txns   int64
}

// take gets n new oids.
func (w *writer) take(n int) error {
	w.oids = nil
	for len(w.oids) < n {
		v, err := w.call(zeowire.NewOIDs, zeowire.Int(int64(min(n-len(w.oids), 100))))
		if err != nil {
			return err
		}
		items, _ := v.Items()
		if len(items) == 0 {
			return fmt.Errorf("new_oids: %v", v)
		}
		for _, item := range items {
			oid, ok := item.OID()
			if !ok {
				return fmt.Errorf("new_oids: %v", item)
			}
			w.oids = append(w.oids, oid)
		}
	}
	w.oids = w.oids[:n]
	return nil
}

// work makes one commit at least, as a loader makes one load.
func (w *writer) work(until time.Time) error {
	for start := time.Now(); ; {
		if err := w.commit(); err != nil {
			return err
		}
		now := time.Now()
		w.done(start, now)
		if !now.Before(until) {
			return nil
		}
		start = now
	}
}

// commit stores all of the objects in one transaction: begin, stores and vote leave
// together, as a client that does not wait can send them.
func (w *writer) commit() error {
	w.txns++
	txn := zeowire.Int(w.txns)
	begin := zeowire.AsyncCall(zeowire.TPCBegin, txn, zeowire.Bytes(nil), zeowire.Bytes(nil), zeowire.Dict(), zeowire.None(), zeowire.Text(" "))
	if err := w.out.Message(begin); err != nil {
		return err
	}
	for _, oid := range w.oids {
		if err := w.out.StoreA(oid, w.serial, w.data, w.txns); err != nil {
			return err
		}
	}
	if _, err := w.call(zeowire.Vote, txn); err != nil {
		return err
	}
	v, err := w.call(zeowire.TPCFinish, txn)
	if err != nil {
		return err
	}
	tid, ok := v.TID()
	if !ok {
		return fmt.Errorf("tpc_finish: %v", v)
	}
	w.serial = tid
	return nil
}
