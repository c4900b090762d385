// Quickstart loses two of three disks, one after the other, under a database that
// is written to all the time, and looks whether anything was lost.
//
//	go run ./examples/quickstart [-db Data.fs] [-dir folder] [-seconds 6]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/zeoraid/raidstorage"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "quickstart:", err)
		}
		os.Exit(1)
	}
}

// phases is how often the demonstration only lets the clients work.
const phases = 5

// demo is the demonstration.
type demo struct {
	db    string        // a Data.fs to start with, empty for none
	dir   string        // where the disks are
	phase time.Duration // how long each phase takes

	screen  *screen
	disks   []*disk
	mirror  *raidstorage.Mirror
	clients *clients
	watcher *watcher

	// beforeCheck lets a test do harm to the files before they are compared.
	beforeCheck func(paths []string)
}

// run is main with everything handed in. Its error says that the demonstration could
// not be carried out, or what was lost.
func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	flags.SetOutput(out)
	d := &demo{screen: newScreen(out)}
	flags.StringVar(&d.db, "db", "", "a `Data.fs` to start with; it is only read")
	flags.StringVar(&d.dir, "dir", "", "a `folder` for the files, kept afterwards (default: a temporary one)")
	seconds := flags.Float64("seconds", 4, "how long the clients work, besides the recoveries")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("there are no arguments but flags: %q", flags.Args())
	}
	d.phase = time.Duration(*seconds * float64(time.Second) / phases)
	return d.run(ctx)
}

// run prepares the folder, tells the story and judges it.
func (d *demo) run(ctx context.Context) error {
	if d.dir == "" {
		dir, err := os.MkdirTemp("", "quickstart")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		d.dir = dir
	}
	for _, name := range []string{"b1", "b2", "b3"} {
		d.disks = append(d.disks, &disk{name: name, dir: filepath.Join(d.dir, name)})
	}
	if err := d.story(ctx); err != nil {
		return err
	}
	if err := d.check(ctx); err != nil {
		d.screen.say("VERDICT: FAILED. %v", err)
		return err
	}
	d.screen.say("VERDICT: OK. Nothing was lost, and all three files are the same.")
	return nil
}

// config is all that makes three files a mirror.
func (d *demo) config() raidstorage.Config {
	cfg := raidstorage.Config{
		StateDir: filepath.Join(d.dir, "state"), // remembers which backends are whole
		// By default the mirror opens and recovers a failed backend by itself. Here
		// it waits for Recover, so that everything happens in its turn.
		AutoRecover: raidstorage.AutoRecoverOff,
	}
	for _, disk := range d.disks {
		cfg.Backends = append(cfg.Backends, raidstorage.Backend{Name: disk.name, Open: disk.open})
	}
	return cfg
}

// story is everything up to the moment when all is stopped.
func (d *demo) story(ctx context.Context) (err error) {
	for _, disk := range d.disks {
		if err := disk.insertEmpty(); err != nil {
			return err
		}
	}
	d.mirror, err = raidstorage.Open(ctx, d.config())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.mirror.Close()) }()
	d.screen.say("A mirror of three files in %s", d.dir)
	if d.db != "" {
		if err := d.load(ctx); err != nil {
			return fmt.Errorf("load %s: %w", d.db, err)
		}
	}
	d.watcher = d.watch(ctx)
	defer d.watcher.stop()
	if d.clients, err = startClients(ctx, d.mirror); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.clients.stop()) }()
	d.screen.say("%d clients commit all the time, each one adding 1 to a random one of %d counters.", clientCount, counterCount)
	if err := d.work(ctx, "with three backends"); err != nil {
		return err
	}
	for _, disk := range d.disks[:2] {
		if err := d.loseAndRecover(ctx, disk); err != nil {
			return err
		}
	}
	d.screen.say("The clients stop.")
	return nil
}

// loseAndRecover takes a disk away while transactions are under way, and brings
// back an empty one.
func (d *demo) loseAndRecover(ctx context.Context, disk *disk) error {
	d.screen.say("")
	d.screen.say("Now disk %s dies, in the middle of whatever it is doing.", disk.name)
	if err := disk.kill(); err != nil {
		return err
	}
	if err := d.watcher.waitFor(ctx, disk.name, raidstorage.StateFailed); err != nil {
		return err
	}
	status := d.mirror.Status()
	d.screen.say("The mirror is %v; in sync: %v.", status.Condition, status.Membership.InSync)
	if err := d.work(ctx, "without "+disk.name); err != nil {
		return err
	}
	d.screen.say("%s is replaced by an empty disk and recovered. The clients go on.", disk.name)
	if err := disk.insertEmpty(); err != nil {
		return err
	}
	if err := d.mirror.Recover(ctx, disk.name); err != nil {
		return err
	}
	if err := d.watcher.waitFor(ctx, disk.name, raidstorage.StateInSync); err != nil {
		return err
	}
	status = d.mirror.Status()
	d.screen.say("The mirror is %v; in sync: %v.", status.Condition, status.Membership.InSync)
	return d.work(ctx, "with "+disk.name+" again")
}

// work lets the clients work for a while, at least for one commit, and tells what they
// achieved.
func (d *demo) work(ctx context.Context, when string) error {
	const atMost, look = 30 * time.Second, 10 * time.Millisecond
	before, n := d.clients.acknowledged(), 0
	start := time.Now()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for n == 0 || time.Since(start) < d.phase {
		select {
		case <-ticker.C:
		case <-d.clients.failed:
			return errors.New("a client met an error that it should not have seen")
		case <-ctx.Done():
			return ctx.Err()
		}
		if n = d.clients.acknowledged() - before; n == 0 && time.Since(start) > atMost {
			return fmt.Errorf("nothing was committed %s", when)
		}
	}
	d.screen.say("%d commits %s, %.0f a second.", n, when, float64(n)/time.Since(start).Seconds())
	return nil
}
