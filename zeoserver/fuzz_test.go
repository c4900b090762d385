package zeoserver_test

import (
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/zeowire"
	"github.com/zeoraid/raidstorage/zeoserver"
)

// FuzzConnection sends a registered client's bytes, whatever they are: no method may
// panic, nothing may hang, and others are served.
func FuzzConnection(f *testing.F) {
	srv := serve(f, zeoserver.Config{MaxFrameBytes: 1 << 20, ClientConflictResolution: true, TransactionTimeout: time.Second})
	l, err := net.Listen("unix", filepath.Join(f.TempDir(), "s")) // TCP would run out of ports
	if err != nil {
		f.Fatal(err)
	}
	srv.alsoServe(f, l)
	for _, enc := range []zeowire.Encoding{zeowire.Pickle, zeowire.Msgpack} {
		for _, calls := range conversations() {
			w := zeowire.Writer{Encoding: enc}
			for i, m := range calls {
				if m.Flag == zeowire.Sync {
					m.ID = zeowire.IntID(int64(i + 2))
				}
				if err := w.Message(m); err != nil {
					f.Fatal(err)
				}
			}
			f.Add(enc == zeowire.Msgpack, w.Take())
		}
	}
	witness := srv.connect(f)
	witness.nc.SetDeadline(noDeadline)
	f.Fuzz(func(t *testing.T, msgpack bool, sent []byte) {
		enc := zeowire.Pickle
		if msgpack {
			enc = zeowire.Msgpack
		}
		nc, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(patience))
		w := zeowire.Writer{Encoding: enc}
		w.Raw(enc.Handshake())
		w.Message(zeowire.Call(zeowire.IntID(1), "register", text("1"), zeowire.Bool(false)))
		if _, err := nc.Write(append(w.Bytes(), sent...)); err != nil && !closedEarly(err) {
			t.Fatal(err)
		}
		if err := nc.(*net.UnixConn).CloseWrite(); err != nil && !closedEarly(err) {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, nc); err != nil && !closedEarly(err) {
			t.Fatal(err)
		}
		witness.t = t
		witness.must("ping")
		witness.async = nil
		if log := srv.log.String(); strings.Contains(log, "bug:") {
			t.Fatal(log)
		}
	})
}

func closedEarly(err error) bool {
	return strings.Contains(err.Error(), "reset") || strings.Contains(err.Error(), "broken pipe") ||
		strings.Contains(err.Error(), "not connected")
}

// conversations are what clients may say.
func conversations() [][]zeowire.Message {
	call := func(name string, args ...zeowire.Value) zeowire.Message {
		return zeowire.Call(zeowire.IntID(1), name, args...)
	}
	begin := zeowire.AsyncCall("tpc_begin", number(1), data("u"), data("d"), zeowire.Dict(zeowire.Entry("k", text("v"))), zeowire.None(), text(" "))
	store := zeowire.AsyncCall("storea", oid(1), tid(0), data("x"), number(1))
	vote, finish, abort := call("vote", number(1)), call("tpc_finish", number(1)), call("tpc_abort", number(1))
	now := tid(raidstorage.MaxTID)
	return [][]zeowire.Message{
		{begin, store, vote, finish, call("loadBefore", oid(1), now), call("history", oid(1), number(3))},
		{begin, store, vote, abort, begin, vote},
		{begin, zeowire.AsyncCall("checkCurrentSerialInTransaction", oid(1), tid(3), number(1)), vote},
		{begin, zeowire.AsyncCall("deleteObject", oid(1), tid(3), number(1)), vote, finish},
		{begin, zeowire.AsyncCall("undoa", data("AAAAAAAAAAE="), number(1)), vote},
		{begin, zeowire.AsyncCall("restorea", oid(1), tid(9), zeowire.None(), tid(3), number(1)), vote, abort},
		{begin, zeowire.AsyncCall("storeBlobStart"), zeowire.AsyncCall("storeBlobChunk", data("blob")),
			zeowire.AsyncCall("storeBlobEnd", oid(2), tid(0), data("x"), number(1)), vote, finish, call("sendBlob", oid(2), tid(3))},
		{call("iterator_start", zeowire.None(), zeowire.None()), call("iterator_next", number(0)), call("iterator_record_start", number(0), tid(3)),
			call("iterator_record_next", number(1)), zeowire.AsyncCall("iterator_gc", zeowire.List(number(0), number(1)))},
		{call("get_info"), call("getInvalidations", tid(1)), call("lastTransaction"), call("new_oids", number(4)), call("server_status")},
		{call("record_iternext", zeowire.None()), call("loadSerial", oid(1), tid(3)), call("getTid", oid(1)), zeowire.KeepAlive()},
		{call("undoInfo", number(0), number(-20), zeowire.Dict(zeowire.Entry("user_name", data("u")))), call("undoLog", number(0), number(-2))},
		{call("pack", zeowire.Float(1e9), zeowire.Bool(true)), call("pack", zeowire.Float(1e9), zeowire.Bool(false)), call("set_client_label", text("l"))},
	}
}
