package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/zeoraid/raidstorage/admin"
	"github.com/zeoraid/raidstorage/config"
	"github.com/zeoraid/raidstorage/zeoserver"
)

// noControl is the value of -admin that turns the control off.
const noControl = "none"

// defaultControl is where the control is served if nobody says anything else.
const defaultControl = "127.0.0.1:8180"

// serveFlags are the flags of serve.
type serveFlags struct {
	config, data, listen, admin, storage string
	logLevel                             slog.Level
	logJSON                              bool
	force                                string
	grace                                time.Duration
	given                                []string // the flags that were there
}

func (e env) serve(ctx context.Context, args []string) int {
	var f serveFlags
	set := e.flags("zeoraid serve", "", "Serves a mirror to ZEO clients. Without -config it is a mirror of two file storages\n"+
		"with blobs under -data, made if they are not there. SIGTERM ends it when the votes in\n"+
		"flight have ended; SIGUSR2 opens the log files again.\n"+
		"Exit status: 0 it was told to end, 2 it could not start or failed, 3 wrong usage.")
	set.StringVar(&f.config, "config", "", "a ZConfig `FILE`, as runzeo takes it, with <raidstorage> sections")
	set.StringVar(&f.data, "data", "zeoraid-data", "the `DIR` of the databases, without -config")
	set.StringVar(&f.listen, "listen", "127.0.0.1:8100", "the `ADDRESS` for ZEO clients, without -config")
	set.StringVar(&f.storage, "storage", "1", "the storage's `NAME`, without -config")
	set.StringVar(&f.admin, "admin", defaultControl, "the `ADDRESS` of the control, if the file names none; \""+noControl+"\" for no control")
	set.TextVar(&f.logLevel, "log-level", slog.LevelInfo, "debug, info, warn or error; without <eventlog>")
	set.BoolVar(&f.logJSON, "log-json", false, "log as JSON; without <eventlog>")
	set.StringVar(&f.force, "force", "", "`NAMES` of backends, separated by commas, to trust although others may hold more:\n"+
		"transactions that only the others hold are given up")
	set.DurationVar(&f.grace, "grace", 30*time.Second, "how long votes in flight may take when it is told to end")
	if status, ok := e.parse(set, args, 0, 0); !ok {
		return status
	}
	set.Visit(func(g *flag.Flag) { f.given = append(f.given, g.Name) })
	cfg, err := f.load()
	if err != nil {
		fmt.Fprintf(e.stderr, "zeoraid serve: %v\n", err)
		return exitUnknown
	}
	logger, output, err := cfg.Log.Logger(e.stdout, e.stderr)
	if err != nil {
		fmt.Fprintf(e.stderr, "zeoraid serve: %v\n", err)
		return exitFindings
	}
	defer output.Close()
	for _, w := range cfg.Warnings {
		logger.Warn("configuration", "fault", w.String())
	}
	p := program{env: e, cfg: cfg, logger: logger, output: output, grace: f.grace}
	f.force = "" // it is for one start
	p.load = f.load
	if err := p.run(ctx); err != nil {
		logger.Error("server ended", "err", err)
		fmt.Fprintf(e.stderr, "zeoraid serve: %s\n", oneLine(err))
		return exitFindings
	}
	return exitClean
}

// load makes the configuration that the flags ask for.
func (f serveFlags) load() (*config.Config, error) {
	var cfg *config.Config
	var err error
	control := f.admin
	if control == noControl {
		control = ""
	}
	if f.config == "" {
		if cfg, err = config.Default(f.data, f.listen, control, f.storage); err != nil {
			return nil, err
		}
		cfg.Log.Level = f.logLevel
		cfg.Log.Files = []config.LogFile{{Path: "STDERR", Level: f.logLevel, JSON: f.logJSON}}
	} else {
		for _, name := range []string{"data", "listen", "storage"} {
			if slices.Contains(f.given, name) {
				return nil, fmt.Errorf("-%s has no meaning with -config: the file says it", name)
			}
		}
		if cfg, err = config.Load(f.config, config.Options{}); err != nil {
			return nil, err
		}
		if len(cfg.Log.Files) == 0 {
			cfg.Log.Files = []config.LogFile{{Path: "STDERR", Level: min(cfg.Log.Level, f.logLevel), JSON: f.logJSON}}
		}
	}
	if cfg.Admin.Address == nil || slices.Contains(f.given, "admin") {
		if cfg.Admin.Address, err = controlAddress(f.admin); err != nil {
			return nil, err
		}
	}
	return cfg, f.trust(cfg)
}

func controlAddress(s string) (*config.Address, error) {
	if s == noControl {
		return nil, nil
	}
	a, err := config.ParseAddress(s)
	if err != nil {
		return nil, fmt.Errorf("-admin: %w", err)
	}
	return &a, nil
}

// trust has the mirrors trust the members that -force names.
func (f serveFlags) trust(cfg *config.Config) error {
	if f.force == "" {
		return nil
	}
	for _, name := range strings.Split(f.force, ",") {
		found := false
		for _, s := range cfg.Storages {
			m, ok := s.Kind.(*config.Mirror)
			if ok && slices.ContainsFunc(m.Members, func(v config.Storage) bool { return v.Name == name }) {
				m.Force = append(m.Force, name)
				found = true
			}
		}
		if !found {
			return fmt.Errorf("-force: no mirror has a backend %q", name)
		}
	}
	return nil
}

// oneLine is an error for people, where others come line by line.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// program is a server that runs.
type program struct {
	env
	cfg    *config.Config
	logger *slog.Logger
	output *config.LogOutput
	grace  time.Duration
	load   func() (*config.Config, error) // the configuration as it is now
}

// run opens everything, serves until ctx ends, and closes everything in the opposite
// order.
func (p program) run(ctx context.Context) (err error) {
	opened, err := p.cfg.Open(ctx, p.logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	settings := p.cfg.Server.ZEO()
	settings.Storages, settings.Logger = opened.Storages, p.logger
	server, err := zeoserver.New(settings)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	listeners, err := p.cfg.Server.Listen(ctx)
	if err != nil {
		return err
	}
	control, listener, err := p.control(ctx, opened, server)
	if err != nil {
		for _, l := range listeners {
			l.Close()
		}
		return err
	}
	if p.cfg.Server.PIDFile != "" {
		if err := os.WriteFile(p.cfg.Server.PIDFile, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
			p.logger.Error("no pid file", "err", err) // as runzeo does: no reason not to serve
		}
		defer os.Remove(p.cfg.Server.PIDFile)
	}
	return p.serveAll(ctx, server, listeners, control, listener, slices.Sorted(maps.Keys(opened.Storages)))
}

// control makes the server of status and control; both are nil if there is none.
func (p program) control(ctx context.Context, opened *config.Opened, server *zeoserver.Server) (*admin.Server, net.Listener, error) {
	if p.cfg.Admin.Address == nil {
		return nil, nil, nil
	}
	r := &reloader{slot: make(chan struct{}, 1), cfg: p.cfg, load: p.load, opened: opened, logger: p.logger}
	control, err := admin.New(admin.Config{Mirrors: opened.Mirrors, Server: server.Status, Reload: r.reload, Logger: p.logger})
	if err != nil {
		return nil, nil, err
	}
	l, err := p.cfg.Admin.Address.Listen(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("control: %w", err)
	}
	return control, l, nil
}

// serveAll serves on all listeners until ctx ends or one of them fails.
func (p program) serveAll(ctx context.Context, server *zeoserver.Server, listeners []net.Listener, control *admin.Server, controlListener net.Listener, names []string) error {
	var group errgroup.Group
	failed, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ready := "zeoraid: ready: zeo"
	for _, l := range listeners {
		ready += " " + l.Addr().String()
		group.Go(func() error {
			err := server.Serve(l)
			if err != nil {
				cancel(err)
			}
			return err
		})
	}
	if control != nil {
		ready += ", control http://" + controlListener.Addr().String()
		group.Go(func() error { return control.Serve(controlListener) })
	}
	fmt.Fprintf(p.stdout, "%s, storages %s\n", ready, strings.Join(names, " "))
	p.logger.Info("ready", "listeners", len(listeners), "storages", names)
	p.reopenLogs(failed)

	// What is in flight may end, though ctx has ended.
	ending, done := context.WithTimeout(context.WithoutCancel(ctx), p.grace)
	defer done()
	p.logger.Info("ending", "grace", p.grace)
	if control != nil {
		// At the same time: a pack or a recovery must not use up what votes have, nor a
		// vote that never ends what they need to end in order.
		group.Go(func() error { return p.inTime("operations of the control go on", control.Shutdown(ending)) })
	}
	err := p.inTime("transactions were aborted", server.Shutdown(ending))
	return errors.Join(err, group.Wait())
}

// inTime tells the log, and nobody else, that the grace was not enough: to end all the
// same is what it is for.
func (p program) inTime(what string, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		p.logger.Warn(what, "err", err)
		return nil
	}
	return err
}

// reopenLogs opens the log files again at each SIGUSR2, until ctx ends.
func (p program) reopenLogs(ctx context.Context) {
	again := make(chan os.Signal, 1)
	signal.Notify(again, syscall.SIGUSR2)
	defer signal.Stop(again)
	for {
		select {
		case <-again:
			if err := p.output.Reopen(); err != nil {
				fmt.Fprintf(p.stderr, "zeoraid serve: %v\n", err)
			}
		case <-ctx.Done():
			return
		}
	}
}
