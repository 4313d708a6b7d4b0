package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/runner"
)

// TestMain lets the test binary stand for teleswap, in scripts and as the daemon that
// they start.
func TestMain(m *testing.M) {
	if os.Getenv(fakeSwaps) != "" {
		os.Exit(fakeSwap(os.Args[1:]))
	}
	if len(os.Args) > 1 && os.Args[1] == runner.MapArg {
		os.Exit(runner.MapMain()) // of doctor, which tries namespaces
	}
	if len(os.Args) > 1 && (os.Args[1] == "daemon" || os.Args[1] == "swap") {
		os.Exit(Main()) // started by a script's teleswap, under this file's name
	}
	testscript.Main(m, map[string]func(){
		"teleswap": func() { os.Exit(Main()) },
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			// A socket's address is short, and the scripts' own directory may not be.
			dir, err := os.MkdirTemp("", "tsw") //nolint:usetesting // its names are too long for a socket
			if err != nil {
				return err
			}
			e.Defer(func() { endDaemon(t, dir) })
			e.Setenv("TELESWAP_RUNTIME_DIR", filepath.Join(dir, "rt"))
			e.Setenv("XDG_STATE_HOME", filepath.Join(e.WorkDir, "state"))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("KUBECONFIG", filepath.Join(e.WorkDir, "kubeconfig"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// status N COMMAND…: runs it and wants its exit status.
			"status": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) < 2 {
					ts.Fatalf("usage: status N COMMAND…")
				}
				err := ts.Exec(args[1], args[2:]...)
				got := "0"
				if err != nil {
					got = strings.TrimPrefix(err.Error(), "exit status ")
				}
				if got != args[0] {
					ts.Fatalf("exit status %s, want %s", got, args[0])
				}
			},
			"killdaemon": func(ts *testscript.TestScript, _ bool, _ []string) {
				pid, err := daemonPID(ts.Getenv("TELESWAP_RUNTIME_DIR"))
				ts.Check(err)
				ts.Check(signalTo(pid, os.Kill))
			},
		},
	})
}

func daemonPID(runtimeDir string) (int, error) {
	data, err := os.ReadFile(api.PathsIn(runtimeDir).Lock)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(data))
}

// endDaemon ends what a script has left running, and waits until it is gone.
func endDaemon(t *testing.T, dir string) {
	paths := api.PathsIn(filepath.Join(dir, "rt"))
	if _, err := os.Stat(paths.Lock); err == nil {
		lock, err := api.Lock(expired(t), paths.Lock)
		if err != nil { // it lives
			pid, err := daemonPID(paths.Dir)
			if err == nil {
				err = signalTo(pid, syscall.SIGTERM)
			}
			if err != nil {
				t.Errorf("end the daemon: %v", err)
				return
			}
			if lock, err = api.Lock(t.Context(), paths.Lock); err != nil {
				t.Error(err)
				return
			}
		}
		closeQuietly(lock)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}

func TestSplitRun(t *testing.T) {
	cases := []struct {
		name    string
		line    string
		rest    string
		command []string
		fails   bool
		docker  bool
	}{
		{"flags of the command", "swap --deployment a --run go run . -v --help", "swap --deployment a", []string{"go", "run", ".", "-v", "--help"}, false, false},
		{"joined", "swap a --run=./server -p 1", "swap a", []string{"./server", "-p", "1"}, false, false},
		{"dashes", "swap a -- ./server --run x", "swap a -- ./server --run x", nil, false, false},
		{"a -- of the command", "swap a --run npm start -- --port 1", "swap a", []string{"npm", "start", "--", "--port", "1"}, false, false},
		{"flags before the verb", "--context c swap a --run x", "--context c swap a", []string{"x"}, false, false},
		{"empty", "swap a --run", "", nil, true, false},
		{"empty, joined", "swap a --run=", "", nil, true, false},
		{"another verb", "leave --run x", "leave --run x", nil, false, false},
		{"completion", "__complete swap --run x", "__complete swap --run x", nil, false, false},
		{"docker's flags", "swap a --docker-run --rm -it -p 1:2 img --run x", "swap a", []string{"--rm", "-it", "-p", "1:2", "img", "--run", "x"}, false, true},
		{"docker, joined", "swap a --docker-run=img x", "swap a", []string{"img", "x"}, false, true},
		{"no image", "swap a --docker-run", "", nil, true, false},
		{"nothing", "", "", nil, false, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			rest, command, docker, err := splitRun(strings.Fields(c.line))
			if (err != nil) != c.fails {
				t.Fatalf("error %v, want one: %v", err, c.fails)
			}
			if docker != c.docker {
				t.Errorf("in a container: %v, want %v", docker, c.docker)
			}
			if got := strings.Join(rest, " "); !c.fails && (got != c.rest || !slices.Equal(command, c.command)) {
				t.Errorf("rest %q, command %q; want %q, %q", got, command, c.rest, c.command)
			}
		})
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"web", "web:app", "deployment/web:app", "deploy/web", "a/b/c", ":", "/", "web:", "pod/x", "sts/db:app", "Jobs.batch/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		target, err := parseTarget(text)
		if err != nil {
			return
		}
		if target.name == "" || strings.ContainsAny(target.name+target.container, "/:") || (target.kind == "") != !strings.Contains(text, "/") {
			t.Errorf("parseTarget(%q) = %+v", text, target)
		}
	})
}

func TestDidYouMean(t *testing.T) {
	names := []string{"deployment", "namespace", "run", "context"}
	for word, want := range map[string]string{
		"deploymnt": "; did you mean --deployment?", "deploy": "; did you mean --deployment?",
		"contxt": "; did you mean --context?", "xyzzy": "", "": "",
	} {
		if got := didYouMean(word, names, "--"); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0ms", 12 * time.Millisecond: "12ms", 1234 * time.Millisecond: "1.2s", 61 * time.Second: "1m1s",
	} {
		if got := short(d); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
	if got := fmt.Sprintf("%s|", pad("é", 3)); got != "é  |" {
		t.Errorf("pad counts bytes: %q", got)
	}
}

func signalTo(pid int, sig os.Signal) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return p.Signal(sig)
}
