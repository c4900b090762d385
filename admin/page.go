package admin

import (
	"html/template"
	"net/http"
)

// page shows the status to people.
func (s *Server) page(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if err := s.template.Execute(w, s.Status()); err != nil {
		s.cfg.Logger.Debug("control: page", "err", err)
	}
}

// newTemplate returns the page. There is no script in it, nor anything that controls.
func newTemplate() (*template.Template, error) {
	return template.New("page").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="refresh" content="10">
<title>zeoraid</title>
<style>
body { font-family: sans-serif; margin: 2em; }
table { border-collapse: collapse; }
th, td { border: 1px solid #999; padding: .3em .6em; text-align: left; vertical-align: top; }
.optimal { color: #060; } .recovering { color: #850; } .degraded, .failed { color: #a00; }
</style>
</head>
<body>
<h1>zeoraid</h1>
{{range .Mirrors}}
<h2>Mirror {{.Name}}: <span class="{{.Condition}}">{{.Condition}}</span></h2>
<p>Last transaction {{.LastTID}}, membership epoch {{.Membership.Epoch}}, write quorum {{.WriteQuorum}}.
{{- with .Reason}}<br>{{.}}{{end}}
{{- with .Pack}}<br>A pack is going on: {{.Phase}} {{.Reason}}{{end}}</p>
<table>
<tr><th>Backend</th><th>State</th><th>Since</th><th>Last transaction</th><th>Loads</th><th>Commits</th><th>Faults</th><th>Why, and what to do</th></tr>
{{range .Backends}}<tr><td>{{.Name}}</td><td>{{.State}}</td><td>{{.Since.Format "2006-01-02 15:04:05 MST"}}</td><td>{{.LastTID}}</td>
<td>{{.Counters.Loads}}</td><td>{{.Counters.Commits}}</td><td>{{.Counters.Faults}}</td>
<td>{{.Reason}}{{with .Hint}}<br><em>{{.}}</em>{{end}}{{with .Recovery}}<br>{{.Phase}}: {{.Transactions}} transactions, {{.Bytes}} bytes copied{{end}}</td></tr>
{{end}}</table>
{{else}}<p>There is no mirror.</p>
{{end}}
{{if .Servers}}<h2>Storages served</h2>
<table>
<tr><th>Storage</th><th>Connections</th><th>Loads</th><th>Stores</th><th>Commits</th><th>Aborts</th><th>Conflicts</th><th>Waiting</th></tr>
{{range .Servers}}<tr><td>{{.Name}}</td><td>{{.Connections}}</td><td>{{.Loads}}</td><td>{{.Stores}}</td><td>{{.Commits}}</td><td>{{.Aborts}}</td><td>{{.Conflicts}}</td><td>{{.Waiting}}</td></tr>
{{end}}</table>{{end}}
<p>As of {{.Time.Format "2006-01-02 15:04:05 MST"}}. Also: <a href="/status">status</a>, <a href="/metrics">metrics</a>.</p>
</body>
</html>
`)
}
