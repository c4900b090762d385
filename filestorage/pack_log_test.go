package filestorage_test

import (
	"testing"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/filestorage"
)

// logTxn is a transaction of a log in memory.
type logTxn struct {
	Meta    raidstorage.Meta
	Records []raidstorage.Record
}

func readLog(tb testing.TB, s *filestorage.Storage) []logTxn {
	tb.Helper()
	var log []logTxn
	for txn, err := range s.Iterate(tb.Context(), 0, raidstorage.MaxTID) {
		if err != nil {
			tb.Fatal(err)
		}
		lt := logTxn{Meta: txn.Meta}
		for rec, err := range txn.Records {
			if err != nil {
				tb.Fatal(err)
			}
			lt.Records = append(lt.Records, rec)
		}
		log = append(log, lt)
	}
	return log
}
