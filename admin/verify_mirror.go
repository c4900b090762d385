package admin

import (
	"context"

	"github.com/zeoraid/raidstorage"
)

// verifyMirror is Mirror.Verify. The report is nil if the verification did not come to
// its end.
func verifyMirror(ctx context.Context, m *raidstorage.Mirror, q Request, progress func(Verify)) (*Report, error) {
	r, err := m.Verify(ctx, raidstorage.VerifyOptions{
		Blobs: q.Blobs, Repair: q.Repair, KeepAll: q.KeepAll, BytesPerSecond: q.BytesPerSecond,
		Progress: func(p raidstorage.VerifyProgress) { progress(verifyOf(p)) },
	})
	if err != nil {
		return nil, err
	}
	return reportOf(r), nil
}

func reportOf(r raidstorage.VerifyReport) *Report {
	report := &Report{
		Verify: verifyOf(r.VerifyProgress), Started: r.Started, Ended: r.Ended, Backends: r.Backends, LeftOut: r.LeftOut,
		Listed: []Finding{}, Wrong: r.Wrong, Degraded: r.Degraded, Kept: oneLine(r.Kept),
	}
	size := 0
	for _, f := range r.Listed {
		text := oneLine(f.String())
		if size += 2*len(text) + 200; size > maxLine/2 {
			break // a line of the answer has a bound; Findings counts all
		}
		report.Listed = append(report.Listed, Finding{
			Backend: f.Backend, Kind: string(f.Kind), OID: OID(f.OID), TID: TID(f.TID), Detail: oneLine(f.Detail), Wrong: f.Wrong, Repaired: f.Repaired, Text: text,
		})
	}
	for name, why := range r.Unread {
		if report.Unread == nil {
			report.Unread = make(map[string]string)
		}
		report.Unread[name] = oneLine(why)
	}
	return report
}

func verifyOf(p raidstorage.VerifyProgress) Verify {
	return Verify{
		Phase: string(p.Phase), TID: TID(p.TID), Through: TID(p.Through), OID: OID(p.OID),
		Transactions: p.Transactions, Objects: p.Objects, Bytes: p.Bytes, Findings: p.Findings, Repaired: p.Repaired,
	}
}
