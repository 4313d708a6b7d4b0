// Command probe is the process that the end-to-end tests put in the place of
// a swapped container, and into the cluster as a client. It tells over HTTP what it sees
// from where it runs (environment, files, names, dials) and drives load from
// there. It knows nothing of Teleswap.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// options are what a test can ask of the process it runs.
type options struct {
	listen    list
	udp       list
	raw       list
	grpc      list
	gate      string
	ignore    string
	exitOnInt int
	drain     bool
	spawn     bool
	name      string
	plain     bool
}

// list is a flag that can be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func main() {
	log.SetFlags(0)
	log.SetPrefix("probe: ")
	var o options
	flag.Var(&o.listen, "listen", "address to serve on; can be given several times")
	flag.Var(&o.udp, "udp", "address to answer datagrams on; can be given several times")
	flag.Var(&o.raw, "raw", "address to speak first on; can be given several times")
	flag.Var(&o.grpc, "grpc", "address to serve gRPC's health service on; can be given several times")
	flag.StringVar(&o.gate, "gate", "", "listen only once this file exists")
	flag.StringVar(&o.ignore, "ignore", "", "signals to note and otherwise ignore: INT,TERM")
	flag.IntVar(&o.exitOnInt, "exit-on-int", -1, "exit with this status on SIGINT")
	flag.BoolVar(&o.drain, "drain", false, "when told to end, serve on until nobody has called for a second")
	flag.BoolVar(&o.spawn, "spawn", false, "have a child of one's own that outlives its parent unless it is ended")
	flag.StringVar(&o.name, "name", "", "what /self calls the process")
	flag.BoolVar(&o.plain, "plain", false, "greet as the original does, without dateTime")
	wait := flag.Duration("wait", 0, "before becoming the program that the arguments name")
	write := flag.String("write", "", "PATH=TEXT: write this file, and end")
	ask := flag.String("ask", "", "PATH?QUERY: do what a request for it asks for, print the answer, and end")
	sleep := flag.Bool("sleep", false, "do nothing until ended")
	flag.Parse()
	if flag.NArg() > 0 {
		time.Sleep(*wait)
		log.Fatal(syscall.Exec(flag.Arg(0), flag.Args(), os.Environ()))
	}
	if path, text, ok := strings.Cut(*write, "="); ok {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			log.Fatal(err)
		}
		return
	}
	if *ask != "" {
		answer := httptest.NewRecorder()
		newProbe(o, os.Stdout).handler("").ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/"+*ask, nil))
		fmt.Print(answer.Body)
		return
	}
	if *sleep {
		ended := make(chan os.Signal, 1)
		signal.Notify(ended, syscall.SIGTERM)
		<-ended
		return
	}
	if err := start(o, os.Stdout); err != nil {
		log.Fatal(err)
	}
	select {} // a signal or a request ends it
}

func start(o options, stdout io.Writer) error {
	p := newProbe(o, stdout)
	handleSignals(o, p)
	if o.spawn {
		if err := spawn(); err != nil {
			return err
		}
	}
	waitForGate(o.gate)
	for _, kind := range []struct {
		addrs  list
		listen func(string) (string, error)
	}{{o.udp, p.listenUDP}, {o.raw, p.listenRaw}, {o.grpc, p.listenGRPC}, {o.listen, p.listen}} {
		for _, addr := range kind.addrs {
			lis, err := kind.listen(addr)
			if err != nil {
				return err
			}
			fmt.Fprintf(stdout, "listening on %s\n", lis)
		}
	}
	return nil
}

// handleSignals says each signal on stdout, so that a test sees how often it
// came, and then does what was asked.
func handleSignals(o options, p *probe) {
	ignored := map[os.Signal]bool{
		syscall.SIGINT:  strings.Contains(o.ignore, "INT"),
		syscall.SIGTERM: strings.Contains(o.ignore, "TERM"),
		syscall.SIGHUP:  strings.Contains(o.ignore, "HUP"),
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		for s := range signals {
			fmt.Fprintf(p.stdout, "signal %s\n", s)
			switch {
			case ignored[s]:
			case s == syscall.SIGINT && o.exitOnInt >= 0:
				go p.end(o.exitOnInt)
			default:
				go p.end(128 + int(s.(syscall.Signal)))
			}
		}
	}()
}

// spawn starts a second process in a session of its own, which no terminal's signal
// reaches: only someone who ends the whole tree ends it.
func spawn() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "-sleep")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd.Start()
}

func waitForGate(path string) {
	for path != "" {
		_, err := os.Stat(path)
		if err == nil || !errors.Is(err, os.ErrNotExist) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}
