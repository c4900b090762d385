package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/zeoraid/raidstorage"
	"github.com/zeoraid/raidstorage/admin"
	"github.com/zeoraid/raidstorage/config"
)

func (e env) reload(ctx context.Context, args []string) int {
	var f controlFlags
	var dryRun bool
	set := e.flags("zeoraid reload", "", "Has the server read its configuration file again, shows what changes, and puts that in\n"+
		"force: members, quorums, read policy and timeouts of a mirror. A new or replaced member\n"+
		"counts when it has been recovered. What would leave too few members in sync, or cannot\n"+
		"change while the server runs, is refused as a whole.\n"+
		"Exit status: 0 it is in force, or would be, 2 it was refused, 3 the server cannot be\n"+
		"reached, wrong usage.")
	set.StringVar(&f.url, "admin", admin.DefaultURL, "the `URL` of the server's control")
	set.BoolVar(&f.json, "json", false, "write JSON, one object a line")
	set.DurationVar(&f.timeout, "timeout", patience, "how long the server may say nothing")
	set.BoolVar(&dryRun, "dry-run", false, "only show what would change")
	if _, status, ok := e.parseMixed(set, args, 0, 0); !ok {
		return status
	}
	steps := []bool{true, false}
	if dryRun {
		steps = steps[:1]
	}
	var shown []string
	for i, dry := range steps {
		last := i == len(steps)-1
		end, err := f.client().Reload(ctx, dry, func(m admin.Message) {
			if f.json && (last || m.Type == admin.TypeEnd) {
				e.line(m)
			}
		})
		if err != nil {
			return e.unknown(&f, "reload", err)
		}
		if !f.json && !slices.Equal(end.Difference, shown) { // not what was shown, if the file was edited meanwhile
			for _, line := range end.Difference {
				fmt.Fprintln(e.stdout, line)
			}
		}
		shown = end.Difference
		if end.Failure != nil {
			if !f.json {
				e.verdict(admin.OpReload, end)
			}
			return exitFindings
		}
		if last || len(end.Difference) == 0 {
			if !f.json {
				e.verdict(admin.OpReload, end)
			}
			return exitClean
		}
	}
	return exitClean
}

// reloader puts edited configurations in force.
type reloader struct {
	slot   chan struct{} // one slot, which guards cfg
	cfg    *config.Config
	load   func() (*config.Config, error)
	opened *config.Opened
	logger *slog.Logger
}

func (r *reloader) reload(ctx context.Context, dryRun bool) ([]string, error) {
	select {
	case r.slot <- struct{}{}:
		defer func() { <-r.slot }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	cfg, err := r.load()
	if err != nil {
		return nil, &raidstorage.InvalidError{Op: "reload", Reason: oneLine(err)}
	}
	if !dryRun {
		for _, w := range cfg.Warnings {
			r.logger.Warn("configuration", "fault", w.String())
		}
	}
	d, err := r.opened.Reload(ctx, r.cfg, cfg, r.logger, dryRun)
	if err != nil {
		r.logger.Warn("reload refused", "dry_run", dryRun, "difference", strings.Join(d.Changes, "; "), "err", err)
	}
	if err == nil && !dryRun {
		r.cfg = cfg
	}
	var lines []string
	for _, change := range d.Changes {
		lines = append(lines, "mirror "+d.Mirror+": "+change)
	}
	return lines, err
}
