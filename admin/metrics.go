package admin

import (
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/zeoserver"
)

// register fills the Server's own registry.
func (s *Server) register() error {
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		newCollector(s),
	} {
		if err := s.registry.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) metrics() http.Handler {
	return promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// metric is one number of a T; ok is false while there is none.
type metric[T any] struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(T) (v float64, ok bool)
}

func collect[T any](ch chan<- prometheus.Metric, metrics []metric[T], from T, labels ...string) {
	for _, m := range metrics {
		if v, ok := m.value(from); ok {
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, v, labels...)
		}
	}
}

// collector makes the metrics from what Status says at the moment of a scrape, so that
// the two agree. It is immutable.
type collector struct {
	s         *Server
	condition *prometheus.Desc
	state     *prometheus.Desc
	role      *prometheus.Desc
	mirror    []metric[raidstorage.Status]
	backend   []metric[raidstorage.BackendStatus]
	recovery  []metric[*raidstorage.RecoveryProgress]
	served    []metric[zeoserver.Status]
}

func newCollector(s *Server) *collector {
	return &collector{
		s: s,
		condition: prometheus.NewDesc("zeoraid_mirror_condition",
			"1 for the condition that the mirror is in, 0 for the others.", []string{"mirror", "condition"}, nil),
		state: prometheus.NewDesc("zeoraid_backend_state",
			"1 for the state that the backend is in, 0 for the others.", []string{"mirror", "backend", "state"}, nil),
		role: prometheus.NewDesc("zeoraid_backend_role",
			"1 for the role that the backend has, 0 for the others.", []string{"mirror", "backend", "role"}, nil),
		mirror:   mirrorMetrics(),
		backend:  backendMetrics(),
		recovery: recoveryMetrics(),
		served:   servedMetrics(s.cfg.Clock),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.condition
	ch <- c.state
	ch <- c.role
	for _, m := range c.mirror {
		ch <- m.desc
	}
	for _, m := range c.backend {
		ch <- m.desc
	}
	for _, m := range c.recovery {
		ch <- m.desc
	}
	for _, m := range c.served {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	for name, m := range c.s.cfg.Mirrors {
		st := m.Status()
		name := labelValue(name)
		for condition := raidstorage.Optimal; condition <= raidstorage.Failed; condition++ {
			ch <- prometheus.MustNewConstMetric(c.condition, prometheus.GaugeValue, one(condition == st.Condition), name, condition.String())
		}
		collect(ch, c.mirror, st, name)
		for _, b := range st.Backends {
			b.Name = labelValue(b.Name)
			for state := raidstorage.StateFailed; state <= raidstorage.StateStandby; state++ {
				ch <- prometheus.MustNewConstMetric(c.state, prometheus.GaugeValue, one(state == b.State), name, b.Name, state.String())
			}
			for role := raidstorage.RoleFull; role <= raidstorage.RoleSpare; role++ {
				ch <- prometheus.MustNewConstMetric(c.role, prometheus.GaugeValue, one(role == b.Role), name, b.Name, role.String())
			}
			collect(ch, c.backend, b, name, b.Name)
			if b.Recovery != nil {
				collect(ch, c.recovery, b.Recovery, name, b.Name)
			}
		}
	}
	for name, st := range c.s.served() {
		collect(ch, c.served, st, labelValue(name))
	}
}

// labelValue is a name as a label takes it: one that is not in UTF-8 would end the
// process, at each scrape.
func labelValue(name string) string {
	if utf8.ValidString(name) {
		return name
	}
	return strconv.Quote(name)
}

func one(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// seconds returns a moment as Prometheus has it.
func seconds(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }

func mirrorMetrics() []metric[raidstorage.Status] {
	typed := func(kind prometheus.ValueType, name, help string, value func(raidstorage.Status) (float64, bool)) metric[raidstorage.Status] {
		return metric[raidstorage.Status]{prometheus.NewDesc("zeoraid_mirror_"+name, help, []string{"mirror"}, nil), kind, value}
	}
	def := func(name, help string, value func(raidstorage.Status) (float64, bool)) metric[raidstorage.Status] {
		return typed(prometheus.GaugeValue, name, help, value)
	}
	catchUp := func(name, help string, value func(raidstorage.CatchUpStatus) float64) metric[raidstorage.Status] {
		return typed(prometheus.CounterValue, "catch_up_"+name, help, func(s raidstorage.Status) (float64, bool) { return value(s.CatchUp), true })
	}
	scrub := func(kind prometheus.ValueType, name, help string, value func(*raidstorage.ScrubStatus) float64) metric[raidstorage.Status] {
		return typed(kind, "scrub_"+name, help, func(s raidstorage.Status) (float64, bool) {
			if s.Scrub == nil {
				return 0, false
			}
			return value(s.Scrub), true
		})
	}
	return []metric[raidstorage.Status]{
		scrub(prometheus.GaugeValue, "running", "1 while the backends are compared in the background.", func(s *raidstorage.ScrubStatus) float64 { return one(s.Running != nil) }),
		scrub(prometheus.CounterValue, "runs_total", "Verifications in the background that ended.", func(s *raidstorage.ScrubStatus) float64 { return float64(s.Runs) }),
		scrub(prometheus.CounterValue, "bytes_total", "Bytes of one backend that they read.", func(s *raidstorage.ScrubStatus) float64 { return float64(s.Bytes) }),
		scrub(prometheus.CounterValue, "findings_total", "Differences that they found.", func(s *raidstorage.ScrubStatus) float64 { return float64(s.Findings) }),
		scrub(prometheus.CounterValue, "repaired_total", "Differences that they repaired.", func(s *raidstorage.ScrubStatus) float64 { return float64(s.Repaired) }),
		typed(prometheus.GaugeValue, "scrub_last_end_timestamp_seconds", "When the last one ended, in Unix time.", func(s raidstorage.Status) (float64, bool) {
			if s.Scrub == nil || s.Scrub.Last == nil {
				return 0, false
			}
			return seconds(s.Scrub.Last.Ended), true
		}),
		def("backends", "Backends, but asynchronous ones and spares.", func(s raidstorage.Status) (float64, bool) {
			n := 0
			for _, b := range s.Backends {
				if b.Role == raidstorage.RoleFull {
					n++
				}
			}
			return float64(n), true
		}),
		def("backends_in_sync", "Backends that hold every acknowledged transaction.", func(s raidstorage.Status) (float64, bool) {
			n := 0
			for _, b := range s.Backends {
				if b.State == raidstorage.StateInSync {
					n++
				}
			}
			return float64(n), true
		}),
		def("write_quorum", "Copies that a commit needs at least.", func(s raidstorage.Status) (float64, bool) { return float64(s.WriteQuorum), true }),
		def("membership_epoch", "Changes of the membership record so far.", func(s raidstorage.Status) (float64, bool) { return float64(s.Membership.Epoch), true }),
		def("membership_changed_timestamp_seconds", "When the membership record was changed, in Unix time.", func(s raidstorage.Status) (float64, bool) {
			return seconds(s.Membership.Time), !s.Membership.Time.IsZero()
		}),
		def("last_transaction_timestamp_seconds", "The time of the last acknowledged transaction's tid, in Unix time.", func(s raidstorage.Status) (float64, bool) {
			return seconds(s.LastTID.Time()), s.LastTID != 0
		}),
		def("packing", "1 while a pack is going on or waits.", func(s raidstorage.Status) (float64, bool) { return one(s.Pack != nil), true }),
		def("catch_up_waiting", "Commits that wait now, so that a recovery catches up.", func(s raidstorage.Status) (float64, bool) { return float64(s.CatchUp.Waiting), true }),
		catchUp("delayed_total", "Commits that had to wait so that a recovery catches up.", func(c raidstorage.CatchUpStatus) float64 { return float64(c.Delayed) }),
		catchUp("expired_total", "Those of them that waited for the longest time allowed.", func(c raidstorage.CatchUpStatus) float64 { return float64(c.Expired) }),
		catchUp("delay_seconds_total", "The time that they waited in all.", func(c raidstorage.CatchUpStatus) float64 { return c.Delay.Seconds() }),
	}
}

func backendMetrics() []metric[raidstorage.BackendStatus] {
	def := func(kind prometheus.ValueType, name, help string, value func(raidstorage.BackendStatus) (float64, bool)) metric[raidstorage.BackendStatus] {
		return metric[raidstorage.BackendStatus]{prometheus.NewDesc("zeoraid_backend_"+name, help, []string{"mirror", "backend"}, nil), kind, value}
	}
	counter := func(name, help string, value func(raidstorage.Counters) int64) metric[raidstorage.BackendStatus] {
		return def(prometheus.CounterValue, name, help, func(b raidstorage.BackendStatus) (float64, bool) { return float64(value(b.Counters)), true })
	}
	return []metric[raidstorage.BackendStatus]{
		def(prometheus.GaugeValue, "state_since_timestamp_seconds", "Since when the backend is in its state, in Unix time.", func(b raidstorage.BackendStatus) (float64, bool) {
			return seconds(b.Since), !b.Since.IsZero()
		}),
		def(prometheus.GaugeValue, "last_transaction_timestamp_seconds", "The time of the last transaction that the backend is known to hold, in Unix time.", func(b raidstorage.BackendStatus) (float64, bool) {
			return seconds(b.LastTID.Time()), b.LastTID != 0
		}),
		def(prometheus.GaugeValue, "lag_transactions", "Commits since the backend dropped out, or what one that follows lacks; absent while not known.", func(b raidstorage.BackendStatus) (float64, bool) {
			return float64(b.LagTransactions), b.LagTransactions >= 0
		}),
		def(prometheus.GaugeValue, "lag_bytes", "About how many bytes a backend that follows lacks; absent while not known.", func(b raidstorage.BackendStatus) (float64, bool) {
			return float64(b.LagBytes), b.LagBytes >= 0
		}),
		def(prometheus.GaugeValue, "lag_seconds", "Between the backend's last transaction and the mirror's.", func(b raidstorage.BackendStatus) (float64, bool) { return b.Lag.Seconds(), true }),
		def(prometheus.GaugeValue, "latency_seconds", "Of recent reads, smoothed; absent while not known.", func(b raidstorage.BackendStatus) (float64, bool) {
			return b.Latency.Seconds(), b.Latency > 0
		}),
		counter("loads_total", "Reads that the backend served.", func(c raidstorage.Counters) int64 { return c.Loads }),
		counter("load_errors_total", "Reads that failed.", func(c raidstorage.Counters) int64 { return c.LoadErrors }),
		counter("commits_total", "Transactions that the backend finished.", func(c raidstorage.Counters) int64 { return c.Commits }),
		counter("repairs_total", "Records and blobs that were repaired.", func(c raidstorage.Counters) int64 { return c.Repairs }),
		counter("faults_total", "Faults for which the backend was suspected.", func(c raidstorage.Counters) int64 { return c.Faults }),
	}
}

func recoveryMetrics() []metric[*raidstorage.RecoveryProgress] {
	type progress = *raidstorage.RecoveryProgress
	def := func(name, help string, value func(progress) (float64, bool)) metric[progress] {
		return metric[progress]{prometheus.NewDesc("zeoraid_recovery_"+name, help, []string{"mirror", "backend"}, nil), prometheus.GaugeValue, value}
	}
	return []metric[progress]{
		def("started_timestamp_seconds", "When the recovery under way began, in Unix time.", func(p progress) (float64, bool) { return seconds(p.Started), true }),
		def("transactions", "Transactions copied so far.", func(p progress) (float64, bool) { return float64(p.Transactions), true }),
		def("transactions_to_do", "Transactions to copy; absent while not known.", func(p progress) (float64, bool) {
			return float64(p.TransactionsToDo), p.TransactionsToDo >= 0
		}),
		def("bytes", "Bytes copied so far.", func(p progress) (float64, bool) { return float64(p.Bytes), true }),
		def("bytes_to_do", "Bytes to copy; absent while not known.", func(p progress) (float64, bool) { return float64(p.BytesToDo), p.BytesToDo >= 0 }),
		def("bytes_per_second", "The recovery's speed so far.", func(p progress) (float64, bool) { return p.Rate, true }),
		def("left_seconds", "Estimated time left; absent while not known.", func(p progress) (float64, bool) { return p.Left.Seconds(), p.Left > 0 }),
	}
}

func servedMetrics(clock func() time.Time) []metric[zeoserver.Status] {
	def := func(kind prometheus.ValueType, name, help string, value func(zeoserver.Status) float64) metric[zeoserver.Status] {
		return metric[zeoserver.Status]{prometheus.NewDesc("zeoraid_zeo_"+name, help, []string{"storage"}, nil), kind,
			func(s zeoserver.Status) (float64, bool) { return value(s), true }}
	}
	gauge, counter := prometheus.GaugeValue, prometheus.CounterValue
	return []metric[zeoserver.Status]{
		def(gauge, "connections", "Clients that are connected.", func(s zeoserver.Status) float64 { return float64(s.Connections) }),
		def(counter, "loads_total", "Loads by clients.", func(s zeoserver.Status) float64 { return float64(s.Loads) }),
		def(counter, "stores_total", "Stores by clients.", func(s zeoserver.Status) float64 { return float64(s.Stores) }),
		def(counter, "commits_total", "Transactions finished.", func(s zeoserver.Status) float64 { return float64(s.Commits) }),
		def(counter, "aborts_total", "Transactions aborted.", func(s zeoserver.Status) float64 { return float64(s.Aborts) }),
		def(counter, "conflicts_total", "Conflicts that clients were told of.", func(s zeoserver.Status) float64 { return float64(s.Conflicts) }),
		def(counter, "conflicts_resolved_total", "Conflicts that were resolved.", func(s zeoserver.Status) float64 { return float64(s.ConflictsResolved) }),
		def(gauge, "active_transactions", "Transactions that were begun and have not ended.", func(s zeoserver.Status) float64 { return float64(s.ActiveTxns) }),
		def(gauge, "waiting", "Votes that wait for the commit lock.", func(s zeoserver.Status) float64 { return float64(s.Waiting) }),
		def(gauge, "lock_time_seconds", "How long the commit lock is held now, 0 while it is free.", func(s zeoserver.Status) float64 {
			if s.LockedSince.IsZero() {
				return 0
			}
			return max(0, clock().Sub(s.LockedSince).Seconds())
		}),
		def(gauge, "start_timestamp_seconds", "When the ZEO server started, in Unix time.", func(s zeoserver.Status) float64 { return seconds(s.Start) }),
	}
}
