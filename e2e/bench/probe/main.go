// Command probe is the process that the bench puts on both ends of a way: in
// a pod, in a network namespace, or as the local process of a swap.
//
//	probe serve   --listen ADDRESS [--name NAME]  serve until a signal comes
//	probe measure [--listen ADDRESS] [--name NAME] also take requests on stdin
//	probe absent  [--times N] NAME                 print the milliseconds that its absence takes to learn
//	probe files   --path FOLDER WHAT               do something with a volume's files, and print the milliseconds
//	probe guard   COMMAND [ARG…]                  run a command that ends with our stdin
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/teleswap/teleswap/e2e/bench/load"
	"github.com/teleswap/teleswap/e2e/bench/remote"
)

// farewell is how long a server goes on after SIGTERM, so that connections
// still sent to its pod while endpoints move are answered.
const farewell = time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("a verb is missing: serve, measure, absent, files or guard")
	}
	verb, args := args[0], args[1:]
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if verb == "guard" {
		return guard(ctx, args, os.Stdin)
	}
	flags := flag.NewFlagSet("probe "+verb, flag.ContinueOnError)
	listen := flags.String("listen", "", "address to serve on")
	name := flags.String("name", "", "what to answer when asked for the name")
	times := flags.Int("times", 1, "how often to ask")
	path := flags.String("path", "", "the folder of the files")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch verb {
	case "serve":
		return serve(lag(ctx, farewell), *listen, *name)
	case "measure":
		return measure(ctx, *listen, *name)
	case "absent":
		return absent(ctx, flags.Arg(0), *times, os.Stdout)
	case "files":
		return files(*path, flags.Arg(0), os.Stdin, os.Stdout)
	}
	return fmt.Errorf("unknown verb %q: want serve, measure, absent, files or guard", verb)
}

// lag returns a context that ends d after ctx.
func lag(ctx context.Context, d time.Duration) context.Context {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() { time.AfterFunc(d, cancel) })
	return late
}

func serve(ctx context.Context, listen, name string) error {
	var config net.ListenConfig
	lis, err := config.Listen(ctx, "tcp", listen)
	if err != nil {
		return fmt.Errorf("listen on %q: %w", listen, err)
	}
	return (&load.Server{Name: name}).Serve(ctx, lis)
}

func measure(ctx context.Context, listen, name string) error {
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	if listen == "" {
		served <- nil
	} else {
		go func() {
			// Without its server the process is of no use: the output ends, too.
			defer cancel()
			served <- serve(ctx, listen, name)
		}()
	}
	err := remote.Serve(ctx, os.Stdin, os.Stdout)
	cancel()
	return errors.Join(err, <-served)
}

// guard runs a command and ends it (SIGTERM, then SIGKILL) when in or ctx
// ends: so a command that does not care for its parent's death still goes.
func guard(ctx context.Context, argv []string, in io.Reader) error {
	if len(argv) == 0 {
		return errors.New("guard: a command is missing")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, in)
		cancel()
	}()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("guard %s: %w", argv[0], err)
	}
	return nil
}

// absent asks for the address of a name that does not exist, once so that whoever remembers can, and then
// again and again. It prints the median of the later times.
func absent(ctx context.Context, name string, times int, out io.Writer) error {
	resolver := &net.Resolver{PreferGo: true}
	var took []time.Duration
	for range times + 1 {
		start := time.Now()
		_, err := resolver.LookupIP(ctx, "ip4", name)
		var no *net.DNSError
		if !errors.As(err, &no) || !no.IsNotFound {
			return fmt.Errorf("look up %s: want that it does not exist, got %w", name, err)
		}
		took = append(took, time.Since(start))
	}
	took = took[1:]
	slices.Sort(took)
	_, err := fmt.Fprintf(out, "%.3f\n", float64(took[len(took)/2].Microseconds())/1000)
	return err
}
