// Command zeoraid serves mirrors to ZEO clients, controls them, and looks after
// storages.
//
//	zeoraid serve                     serve a mirror
//	zeoraid status                    tell in one line how it is
//	zeoraid details                   tell all about it, and why it is degraded
//	zeoraid recover NAME              bring a backend back
//	zeoraid disable NAME              take a backend out
//	zeoraid promote NAME              make an asynchronous or spare backend a full one
//	zeoraid demote NAME               make a full backend an asynchronous one
//	zeoraid pack                      drop what is not needed any more
//	zeoraid verify                    compare the backends
//	zeoraid reload                    put an edited configuration in force
//	zeoraid bench ADDRESS [PEER]      measure a ZEO server
//	zeoraid fs check FILE...          tell what is wrong with FileStorages
//	zeoraid fs dump FILE...           show what is in them
//	zeoraid fs recover DAMAGED FRESH  copy what can be read to a new one
//
// Results go to the standard output, as text or, with -json, one JSON object a line;
// progress and errors to the standard error. The exit status is what monitoring
// plugins use: 0 all is well, 1 a mirror is recovering, 2 something is wrong, 3 that
// could not be told: wrong usage, a file that cannot be read, a server that cannot be
// reached, an interruption.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Exit statuses.
const (
	exitClean    = 0
	exitFindings = 2
	exitUnknown  = 3
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run runs the command with the arguments args and returns its exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	e := env{stdout: stdout, stderr: stderr, terminal: isTerminal(stderr), now: time.Now}
	return e.dispatch(ctx, "zeoraid", args, []verb{
		{"serve", "serve a mirror to ZEO clients", e.serve},
		{"status", "tell in one line how a mirror is", e.status},
		{"details", "tell all about a mirror, and why it is degraded", e.details},
		{"recover", "bring a backend back", e.recover},
		{"disable", "take a backend out", e.disable},
		{"promote", "make an asynchronous or spare backend a full one", e.promote},
		{"demote", "make a full backend an asynchronous one", e.demote},
		{"pack", "drop what is not needed any more", e.pack},
		{"verify", "compare the backends of a mirror", e.verify},
		{"reload", "put an edited configuration in force", e.reload},
		{"bench", "measure a ZEO server", e.bench},
		{"fs", "look into FileStorages", e.fs},
	})
}

// env is what a verb has of the world.
type env struct {
	stdout, stderr io.Writer
	terminal       bool // stderr is one
	now            func() time.Time
}

// verb is a word of the command line.
type verb struct {
	name, summary string
	run           func(ctx context.Context, args []string) int
}

// dispatch runs the verb that args begin with.
func (e env) dispatch(ctx context.Context, command string, args []string, verbs []verb) int {
	if len(args) > 0 {
		if i := slices.IndexFunc(verbs, func(v verb) bool { return v.name == args[0] }); i >= 0 {
			return verbs[i].run(ctx, args[1:])
		}
	}
	var usage strings.Builder
	fmt.Fprintf(&usage, "usage: %s VERB ...\n", command)
	for _, v := range verbs {
		fmt.Fprintf(&usage, "  %-8s %s\n", v.name, v.summary)
	}
	if len(args) > 0 && slices.Contains([]string{"help", "-h", "-help", "--help"}, args[0]) {
		fmt.Fprint(e.stdout, usage.String())
		return exitClean
	}
	if len(args) > 0 {
		fmt.Fprintf(e.stderr, "%s: unknown verb %q\n", command, args[0])
	}
	fmt.Fprint(e.stderr, usage.String())
	return exitUnknown
}

// flags returns an empty set of flags for a verb. Its usage ends with about.
func (e env) flags(command, args, about string) *flag.FlagSet {
	set := flag.NewFlagSet(command, flag.ContinueOnError)
	set.SetOutput(e.stderr)
	set.Usage = func() {
		fmt.Fprintf(set.Output(), "usage: %s [flags] %s\n\n%s\n\n", command, args, about)
		set.PrintDefaults()
	}
	return set
}

// parse parses args, of which least to most must be left after the flags. If it
// returns false the verb ends with the status.
func (e env) parse(set *flag.FlagSet, args []string, least, most int) (status int, ok bool) {
	if slices.ContainsFunc(args, func(a string) bool { return a == "-h" || a == "-help" || a == "--help" }) {
		set.SetOutput(e.stdout) // it was asked for
	}
	err := set.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitClean, false
	case err != nil:
		return exitUnknown, false
	case set.NArg() < least || set.NArg() > most:
		set.Usage()
		return exitUnknown, false
	}
	return 0, true
}
