package storagetest

import (
	"bytes"

	"github.com/google/go-cmp/cmp"

	"github.com/zeoraid/raidstorage"
)

func metaRules() []rule {
	return subject("metadata", needs{},
		rule{name: "metadata comes back byte for byte", run: func(e *env) {
			var want []LogTransaction
			for i, meta := range sampleMetas() {
				oid := raidstorage.OID(i + 1)
				tid := e.transact(meta, func(txn raidstorage.Txn) error { return txn.Store(e.ctx, oid, 0, []byte("x")) })
				status := meta.Status
				if status == 0 {
					status = raidstorage.StatusNormal
				}
				want = append(want, LogTransaction{
					TID: tid, Status: string(rune(status)), User: string(meta.User),
					Description: string(meta.Description), Extension: string(meta.Extension),
					Records: []LogRecord{{OID: oid, TID: tid, Data: "x"}},
				})
			}
			if diff := cmp.Diff(want, e.log(e.s)); diff != "" {
				e.Errorf("the log differs (-want +got):\n%s", diff)
			}
		}},
		rule{name: "metadata of 65535 bytes is kept", run: func(e *env) {
			long := longestMeta()
			e.transact(long, func(txn raidstorage.Txn) error { return txn.Store(e.ctx, 1, 0, []byte("x")) })
			got := e.logOf(1)[0]
			if got.User != string(long.User) || got.Description != string(long.Description) || got.Extension != string(long.Extension) {
				e.Errorf("%d+%d+%d bytes of metadata came back as other %d+%d+%d", len(long.User), len(long.Description),
					len(long.Extension), len(got.User), len(got.Description), len(got.Extension))
			}
		}},
		rule{name: "metadata of 65536 bytes is invalid", run: func(e *env) {
			tooLong := bytes.Repeat([]byte("x"), raidstorage.MaxMetaBytes+1)
			for _, meta := range []raidstorage.Meta{{User: tooLong}, {Description: tooLong}, {Extension: tooLong}} {
				e.wantInvalidMeta(meta)
			}
		}},
		rule{name: "an unknown status is invalid", run: func(e *env) {
			for _, status := range []raidstorage.TxnStatus{'c', 'u', 'x', 1, 255} {
				e.wantInvalidMeta(raidstorage.Meta{Status: status})
			}
		}},
	)
}

func (e *env) wantInvalidMeta(meta raidstorage.Meta) {
	e.Helper()
	txn, err := e.s.Begin(e.ctx, meta)
	if err == nil {
		e.abort(txn)
	}
	wantErr[*raidstorage.InvalidError](e, "Begin", err)
}

// sampleMetas holds a pickled dictionary as extension, as ZODB writes it.
func sampleMetas() []raidstorage.Meta {
	return []raidstorage.Meta{
		{},
		{User: []byte(" admin"), Description: []byte("/news/today\n\nedited")},
		{User: []byte("j\xc3\xb6rg"), Description: []byte("\x00\xff not text"), Status: raidstorage.StatusNormal},
		{Extension: []byte("\x80\x03}X\x04\x00\x00\x00noteX\x02\x00\x00\x00his.")},
		{User: []byte("u"), Description: []byte("packed"), Status: raidstorage.StatusPacked},
	}
}

func longestMeta() raidstorage.Meta {
	fill := func(pattern string) []byte {
		return bytes.Repeat([]byte(pattern), raidstorage.MaxMetaBytes)[:raidstorage.MaxMetaBytes]
	}
	// The extension is a pickled dictionary with one long binary value.
	head, tail := "\x80\x03}X\x01\x00\x00\x00kB", "s."
	n := raidstorage.MaxMetaBytes - len(head) - 4 - len(tail)
	extension := append([]byte(head), byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
	extension = append(extension, bytes.Repeat([]byte("v"), n)...)
	return raidstorage.Meta{User: fill("user "), Description: fill("description "), Extension: append(extension, tail...)}
}
