package filestorage

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/internal/pickleref"
)

// Dump writes what is in the FileStorage at path to out: a line for each transaction
// and for each record, in the order of the file, and one for each damaged place. It
// takes no lock and goes on after damage. What lines say, in JSON:
//
//	{"type":"transaction","offset":4,"tid":"…","time":"…","length":…,"status":" ",
//	 "user":"…","description":"…","extension":"base64"}
//	{"type":"record","offset":…,"oid":"…","tid":"…","size":…,"class":"module.name",
//	 "previous":…,"back":…,"deleted":true}
//	{"type":"damage","kind":"…","offset":…,"length":…,"tid":"…","oid":"…","text":"…"}
//
// with fields left out that are empty or 0; previous and back are offsets, length
// and size bytes. A finding is also given to opts.Found, before its line is written.
func Dump(ctx context.Context, path string, out io.Writer, opts InspectOptions) (report *Report, err error) {
	in, err := inspect(path, opts)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.f.Close()) }()
	d := &dumper{inspection: in, out: bufio.NewWriterSize(out, 64<<10)}
	defer func() { err = errors.Join(err, d.out.Flush()) }()
	in.found = func(f Finding) {
		in.tell(f)
		d.finding(f)
	}
	if ok, err := in.magic(); !ok {
		return &in.report, err
	}
	for pos := int64(magicLen); pos < in.end; {
		p, err := in.walker.next(ctx, pos)
		if err != nil {
			return &in.report, err
		}
		if !p.whole {
			in.report.LostBytes += p.next - p.pos
		} else if err := d.transaction(ctx, &p); err != nil {
			return &in.report, err
		}
		pos = p.next
		in.progress(0, pos)
	}
	return &in.report, nil
}

// dumper writes lines. A bufio.Writer keeps its error for Flush.
type dumper struct {
	*inspection
	out  *bufio.Writer
	data []byte
}

// dumped is a line in JSON.
type dumped struct {
	Type        string `json:"type"`
	Kind        string `json:"kind,omitempty"`
	Offset      int64  `json:"offset"`
	OID         string `json:"oid,omitempty"`
	TID         string `json:"tid,omitempty"`
	Time        string `json:"time,omitempty"`
	Length      int64  `json:"length,omitempty"`
	Size        int64  `json:"size,omitempty"`
	Status      string `json:"status,omitempty"`
	User        string `json:"user,omitempty"`
	Description string `json:"description,omitempty"`
	Extension   []byte `json:"extension,omitempty"`
	Class       string `json:"class,omitempty"`
	Previous    int64  `json:"previous,omitempty"`
	Back        int64  `json:"back,omitempty"`
	Deleted     bool   `json:"deleted,omitempty"`
	Text        string `json:"text,omitempty"`
}

// line writes l in JSON, or else what human writes.
func (d *dumper) line(l dumped, human func(io.Writer)) {
	if !d.opts.JSON {
		human(d.out)
		return
	}
	b, err := json.Marshal(l)
	if err != nil {
		b = fmt.Appendf(nil, `{"type":"damage","text":%q}`, err)
	}
	_, _ = d.out.Write(append(b, '\n')) // Flush tells
}

func (d *dumper) transaction(ctx context.Context, p *piece) error {
	d.report.Transactions++
	start, err := d.firstItem(ctx, p)
	if err != nil {
		return err
	}
	meta := raidstorage.Meta{TID: p.tid, Status: p.status}
	if p.records() <= p.end() && !p.badMeta {
		if meta, err = d.w.meta(p.txnHeader); err != nil {
			return err
		}
	}
	at := p.tid.Time().Format(time.RFC3339Nano)
	d.line(dumped{
		Type: "transaction", Offset: p.pos, TID: p.tid.String(), Time: at, Length: p.length, Status: string(rune(p.status)),
		User: string(meta.User), Description: string(meta.Description), Extension: meta.Extension,
	}, func(w io.Writer) {
		fmt.Fprintf(w, "transaction %v at %d: %s, %d bytes, status %q, user %q, description %q, extension of %d bytes\n",
			p.tid, p.pos, at, p.length, byte(p.status), meta.User, meta.Description, len(meta.Extension))
	})
	for pos := start; pos < p.end(); {
		it, err := d.item(ctx, pos, p)
		if err != nil {
			return err
		}
		pos = it.next
		if it.garbage {
			d.report.LostBytes += it.next - it.pos
			continue
		}
		d.report.Records++
		if err := d.record(&it); err != nil {
			return err
		}
	}
	return nil
}

// maxClass is how much of a record is read to find its class, which comes first.
const maxClass = 4 << 10

func (d *dumper) record(it *item) error {
	class := ""
	if !d.opts.Opaque && it.size > 0 {
		n := int(min(it.size, maxClass))
		if cap(d.data) < n {
			d.data = make([]byte, maxClass)
		}
		if err := d.w.read(d.data[:n], it.data()); err != nil {
			return err
		}
		if module, name, err := pickleref.Class(d.data[:n]); err == nil {
			class = module + "." + name
		}
	}
	gone := it.size == 0 && it.back == 0 && !it.badBack
	d.line(dumped{
		Type: "record", Offset: it.pos, OID: it.oid.String(), TID: it.tid.String(), Size: it.size,
		Class: class, Previous: it.prev, Back: it.back, Deleted: gone,
	}, func(w io.Writer) {
		fmt.Fprintf(w, "  object %v at %d: ", it.oid, it.pos)
		switch {
		case gone:
			fmt.Fprint(w, "deleted, or its creation undone")
		case it.size == 0:
			fmt.Fprintf(w, "the data at %d", it.back)
		default:
			fmt.Fprintf(w, "%d bytes", it.size)
		}
		if class != "" {
			fmt.Fprintf(w, ", %s", class)
		}
		fmt.Fprintln(w)
	})
	return nil
}

func (d *dumper) finding(f Finding) {
	l := dumped{Type: "damage", Kind: f.Kind, Offset: f.Offset, Length: f.Length, Text: f.Text}
	if f.TID != 0 {
		l.TID = f.TID.String()
	}
	if f.Object {
		l.OID = f.OID.String()
	}
	d.line(l, func(w io.Writer) { fmt.Fprintf(w, "! %s at %d: %s\n", f.Kind, f.Offset, f.Text) })
}
