//go:build interop

package interop_test

import (
	"bytes"
	"context"
	"fmt"
	"html"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// zope is a Zope on a ZEO storage, as a manager sees it through HTTP.
type zope struct {
	t      *testing.T
	client http.Client
}

const zopeINI = `[app:zope]
use = egg:Zope#main
zope_conf = %(here)s/zope.conf
[server:main]
use = egg:waitress#main
unix_socket = %(here)s/http
[pipeline:main]
pipeline =
    egg:Zope#httpexceptions
    zope
`

const zopeConf = `instancehome %s
<zodb_db main>
  mount-point /
  <zeoclient>
    server %s
    storage 1
    name main
  </zeoclient>
</zodb_db>
`

// startZope starts Zope on the server at address and waits until it answers. stop ends
// it; it ends with the test too.
func startZope(t *testing.T, address string) (_ *zope, stop func()) {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "http")
	for name, text := range map[string]string{
		"zope.ini":  zopeINI,
		"zope.conf": fmt.Sprintf(zopeConf, dir, address),
		"inituser":  "admin:secret",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"etc", "var"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	cmd := command(ctx, tool(t, "RAIDSTORAGE_ZOPE", "runwsgi"), filepath.Join(dir, "zope.ini"))
	var log bytes.Buffer // read after the process has ended only
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait() // it is killed in the end, so the error says nothing
	}()
	stop = func() {
		cancel()
		<-ended
		if t.Failed() {
			t.Logf("Zope's log:\n%s", &log)
			log.Reset()
		}
	}
	t.Cleanup(stop)
	z := &zope{t: t}
	z.client.Transport = &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		}}
	z.client.Timeout = 2 * time.Minute
	within(t, 2*time.Minute, "Zope to listen", func() bool { // its start says nothing of our server
		select {
		case <-ended:
			t.Fatal("Zope has ended")
		default:
		}
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return z, stop
}

// get returns a page, which has to be there.
func (z *zope) get(path string) string {
	z.t.Helper()
	return z.do(http.MethodGet, path, nil, "")
}

// post sends a form; Zope's answer is a page or a redirection to one.
func (z *zope) post(path string, form url.Values) string {
	z.t.Helper()
	return z.do(http.MethodPost, path, strings.NewReader(form.Encode()), "application/x-www-form-urlencoded")
}

// upload adds a file to the folder.
func (z *zope) upload(folder, id string, content []byte) {
	z.t.Helper()
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	w.WriteField("id", id)
	w.WriteField("title", "")
	part, err := w.CreateFormFile("file", id)
	if err == nil {
		_, err = part.Write(content)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		z.t.Fatal(err)
	}
	z.do(http.MethodPost, folder+"/manage_addProduct/OFSP/manage_addFile", &body, w.FormDataContentType())
}

func (z *zope) do(method, path string, body io.Reader, contentType string) string {
	z.t.Helper()
	req, err := http.NewRequestWithContext(z.t.Context(), method, "http://zope"+path, body)
	if err != nil {
		z.t.Fatal(err)
	}
	req.SetBasicAuth("admin", "secret")
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res, err := z.client.Do(req)
	if err != nil {
		z.t.Fatal(err)
	}
	defer res.Body.Close()
	page, err := io.ReadAll(res.Body)
	if err != nil {
		z.t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		z.t.Fatalf("%s %s: %s\n%s", method, path, res.Status, page)
	}
	return string(page)
}

// TestZope runs Zope on `zeoraid serve`, with an ordinary <zeoclient> section, through a
// manager's day: pages, folders, files, undo, pack, a restart, while one backend after
// the other is taken out and recovered.
func TestZope(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	data := filepath.Join(t.TempDir(), "data")
	raid := serve(ctx, t, "-data", data, "-listen", "127.0.0.1:0", "-admin", "127.0.0.1:0")
	z, stop := startZope(t, raid.zeo)
	const database = "/Control_Panel/Database/main"
	for _, page := range []string{"/manage_main", "/Control_Panel/manage_main", database + "/manage_main", database + "/manage_UndoForm"} {
		z.get(page)
	}
	content := bytes.Repeat([]byte("content of a file\n"), 20_000)
	added := []string{"before"}
	add := func(id string) {
		t.Helper()
		added = append(added, id)
		z.addFolder(id)
		z.upload("/"+id, "file.txt", content)
	}
	z.addFolder("before")
	z.upload("/before", "file.txt", content)
	for _, backend := range []string{"1", "2"} {
		raid.expect(ctx, t, 0, "", "disable", backend)
		raid.expect(ctx, t, 2, "degraded", "status")
		add("without-" + backend)
		raid.expect(ctx, t, 0, "", "recover", backend, "-wait")
		raid.expect(ctx, t, 0, "optimal", "status")
		add("with-" + backend)
	}
	check := func() {
		t.Helper()
		page := z.get("/manage_main")
		for _, id := range added {
			if !strings.Contains(page, id) {
				t.Errorf("folder %s is not on the page", id)
			}
			if got := z.get("/" + id + "/file.txt"); got != string(content) {
				t.Errorf("file in folder %s: %d bytes, want %d", id, len(got), len(content))
			}
		}
	}
	check()
	z.addFolder("undone")
	z.undoLast(database)
	if strings.Contains(z.get("/manage_main"), "undone") {
		t.Error("the undone folder is still there")
	}
	z.post(database+"/manage_pack", url.Values{"days:float": {"0"}})
	check()
	stop()
	z, stop = startZope(t, raid.zeo)
	check()
	stop()
	raid.stop(ctx, t)
	one, two := filepath.Join(data, "1", "Data.fs"), filepath.Join(data, "2", "Data.fs")
	fstest(t, one)
	fstest(t, two)
	if client(t, "digest", one, "") != client(t, "digest", two, "") {
		t.Error("the two files do not hold the same")
	}
}

// addFolder adds a folder to the root.
func (z *zope) addFolder(id string) {
	z.t.Helper()
	z.post("/manage_addProduct/OFSP/manage_addFolder", url.Values{"id": {id}, "title": {""}})
}

// undoLast undoes the newest transaction that the undo page of the database shows.
func (z *zope) undoLast(database string) {
	z.t.Helper()
	page := z.get(database + "/manage_UndoForm")
	found := regexp.MustCompile(`name="transaction_info:list"\s+value="([^"]+)"`).FindStringSubmatch(page)
	if found == nil {
		z.t.Fatalf("no transaction on the page:\n%s", page)
	}
	z.post(database+"/manage_undo_transactions", url.Values{"transaction_info:list": {html.UnescapeString(found[1])}})
}
