// Command bench measures, on a real cluster and in one run: what the machine
// gives (node to pod address), `kubectl port-forward`, and Teleswap outbound
// and inbound; and how long a swap and its end take. It prints tables with
// ratios and verdicts, and its exit status is 1 if a target is missed.
//
// It drives built binaries: teleswap, kubectl, and its own probe, which stands
// at both ends of every way. Without -kubeconfig it uses the embedded cluster
// of e2e/cluster, for which it needs root; kubectl and teleswap always run on
// its laptop's side, as an ordinary user.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/teleswap/teleswap/e2e/bench/report"
)

type options struct {
	lab        labOptions
	paths      []string
	transports []string
	metrics    []string // nil: all
	rounds     int
	swaps      int
	work       int
	files      int
	duration   time.Duration
	burst      int
	output     string
	targets    report.Targets
	quick      bool
	verbose    bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	// A second signal ends the bench at once; its processes end with its pipes.
	context.AfterFunc(ctx, stop)
	opts, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err == nil {
		err = run(ctx, opts, os.Stdout, os.Stderr)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(args []string, stderr io.Writer) (options, error) {
	o := options{targets: report.Targets{BulkAtLeast: 0.8, TripAtMost: 1.5, SwapAtMost: 3000}}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	paths := flags.String("paths", strings.Join([]string{pathLimit, pathForward, pathOutbound, pathInbound}, ","),
		"ways to measure, of "+strings.Join(allPaths(), ", "))
	transports := flags.String("transports", "",
		"transports to measure by themselves, too (each adds its own outbound and inbound), for example pod-proxy,port-forward-websocket,port-forward-spdy")
	metrics := flags.String("metrics", "", "measure only these, by their first keys: "+strings.Join(planKeys(), ", "))
	flags.IntVar(&o.rounds, "rounds", 5, "rounds over all ways")
	flags.IntVar(&o.swaps, "swaps", 5, "timed swaps")
	flags.IntVar(&o.work, "work", 3, "rounds of work in the sandbox and outside it")
	flags.IntVar(&o.files, "files", 3, "rounds of work with the files of a volume, by the sandbox and by kubectl exec")
	flags.DurationVar(&o.duration, "duration", 2*time.Second, "length of each measurement")
	flags.IntVar(&o.burst, "burst", 1000, "connections to open at once")
	flags.StringVar(&o.output, "o", "markdown", "markdown or json")
	flags.BoolVar(&o.quick, "quick", false, "one short round and one swap, and no verdicts: to see that all of it works")
	flags.BoolVar(&o.targets.SwapFatal, "swap-fatal", false, "fail, too, when the swap takes longer than its target")
	flags.BoolVar(&o.verbose, "v", false, "tell every measurement")
	o.lab.register(flags)
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if o.quick {
		o.hurry(flags)
	}
	o.paths, o.transports, o.metrics = list(*paths), list(*transports), list(*metrics)
	for _, path := range o.paths {
		if !slices.Contains(allPaths(), path) {
			return o, fmt.Errorf("-paths: unknown way %q: want some of %s", path, strings.Join(allPaths(), ", "))
		}
	}
	for _, key := range o.metrics {
		if !slices.Contains(planKeys(), key) {
			return o, fmt.Errorf("-metrics: unknown metric %q: want some of %s", key, strings.Join(planKeys(), ", "))
		}
	}
	switch {
	case o.rounds < 1 || o.duration < time.Millisecond || o.burst < 1 || o.swaps < 0 || o.work < 0 || o.files < 0:
		return o, errors.New("-rounds, -duration and -burst must be positive, and -swaps, -work and -files not negative")
	case o.output != "markdown" && o.output != "json":
		return o, fmt.Errorf("-o: unknown format %q: want markdown or json", o.output)
	}
	return o, nil
}

// hurry makes everything small that no flag says otherwise.
func (o *options) hurry(flags *flag.FlagSet) {
	small := map[string]func(){
		"rounds":   func() { o.rounds = 1 },
		"swaps":    func() { o.swaps = 1 },
		"work":     func() { o.work = 1 },
		"files":    func() { o.files = 1 },
		"duration": func() { o.duration = 200 * time.Millisecond },
		"burst":    func() { o.burst = 200 },
	}
	flags.Visit(func(f *flag.Flag) { delete(small, f.Name) })
	for _, set := range small {
		set()
	}
}

// list splits at commas; of nothing it is empty.
func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

func run(ctx context.Context, o options, stdout, stderr io.Writer) error {
	level := slog.LevelInfo
	if o.verbose {
		level = slog.LevelDebug
	}
	logger := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	result, err := bench(ctx, o, stderr, logger)
	if err != nil {
		return err
	}
	if !o.quick {
		result.Judge(o.targets)
	}
	if o.output == "json" {
		err = result.JSON(stdout)
	} else {
		err = result.Markdown(stdout)
	}
	if err != nil {
		return err
	}
	if o.quick {
		return incomplete(result)
	}
	if result.Failed() {
		return errors.New("a target is missed")
	}
	return nil
}

// incomplete is the verdict of a quick run: everything was measured.
func incomplete(r *report.Report) error {
	var errs []error
	for _, w := range r.Ways {
		for _, m := range report.Metrics() {
			for _, f := range w.Failures(m.Key) {
				errs = append(errs, fmt.Errorf("%s, %s: %s", w.Name, m.Title, f.Error))
			}
		}
	}
	for _, w := range slices.Concat(r.Work, r.Files) {
		if w.Error != "" {
			errs = append(errs, fmt.Errorf("%s: %s", w.Name, w.Error))
		}
	}
	for _, s := range r.Swaps {
		if s.Error != "" {
			errs = append(errs, fmt.Errorf("swap: %s", s.Error))
		}
	}
	return errors.Join(errs...)
}
