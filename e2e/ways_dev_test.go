package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/teleswap/teleswap/e2e/scene"
)

// watchedServer is a tiny server with the answer that its developer has just written. It ends as servers do that are told to, or
// (abrupt) as who does not care.
func watchedServer(answer string, abrupt bool) string {
	end := "server.Shutdown(context.Background())"
	if abrupt {
		end = "server.Close()"
	}
	return strings.NewReplacer("ANSWER", answer, "END", end).Replace(`package main

import (
	"context"
	"fmt"
	"net/http"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	server := &http.Server{Addr: ":8080", Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, ` + "`" + `{"message": "Hi, says ANSWER", "dateTime": 1}` + "`" + `)
	})}
	ended := make(chan error)
	go func() {
		<-ctx.Done()
		ended <- END
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		panic(err)
	}
	if err := <-ended; err != nil {
		panic(err)
	}
}
`)
}

// TestWaysWatch changes the source of a server ten times, as editors do, under a load of 50 requests a second. Then it breaks
// the source, and mends it.
func TestWaysWatch(t *testing.T) {
	w := newWorld(t)
	w.Apply(webScene)
	c := w.NewClient()
	w.WaitAvailable()
	w.Freeze()
	main := w.File("server/main.go", watchedServer("the first", false))
	w.File("server/go.mod", "module example.com/server\n\ngo 1.26\n")
	// A new user's first build compiles the standard library, too.
	w.Start(scene.How{Dir: filepath.Dir(main)}, "go", "build", "-o", os.DevNull, ".").WaitLong(0)
	load := c.StartLoad("http://web/api")
	load.WaitOriginal(20)
	run := w.Start(scene.How{Dir: filepath.Dir(main)}, w.Lab.Bin.Teleswap, "swap", "web", "--watch", "--run", "go", "run", ".")
	run.WaitSwapped()
	answers := func(answer string) {
		t.Helper()
		w.Eventually("an answer of "+answer, func() string {
			if o := c.Post("http://web/api", `{"message":"Hi"}`); !strings.Contains(o.Body, "says "+answer+`"`) {
				return fmt.Sprintf("%+v", o)
			}
			return ""
		})
	}
	answers("the first")
	for n := range 10 {
		answer := fmt.Sprintf("change %d", n)
		if n%2 == 0 {
			w.File("server/main.go", watchedServer(answer, n%3 == 0))
		} else {
			next := w.File("server/.main.go.swp", watchedServer(answer, n%3 == 0))
			if err := os.Rename(next, main); err != nil {
				t.Fatal(err)
			}
		}
		answers(answer)
		load.WaitSwapped(20)
	}
	load.Stop().NoneFailed(t)
	if n := strings.Count(run.Stderr(), "· restarted (pid "); n < 10 {
		t.Errorf("%d restarts for ten changes:\n%s", n, run.Stderr())
	}

	w.File("server/main.go", "package main\n\nfunc main() { nonsense }\n")
	run.WaitStderr(`^! the command has ended \(exit status 1\)`)
	w.File("server/main.go", watchedServer("the last", false))
	answers("the last")
	w.File("server/main.go", "package main\n")
	w.Eventually("a second end of the command", func() string {
		if strings.Count(run.Stderr(), "! the command has ended") < 2 {
			return run.Stderr()
		}
		return ""
	})
	run.SignalGroup(sigint)
	run.WaitEnd(1) // that of the last command
	w.WaitUnchanged()
}

// delveVersion is pinned: its client's words are read here.
const delveVersion = "v1.27.2"

// delve is the debugger in a folder of the world's user.
func delve(t *testing.T, w *scene.World) (dir string) {
	t.Helper()
	program, err := os.ReadFile(goTool(t, "github.com/go-delve/delve", delveVersion, "cmd/dlv"))
	if err != nil {
		t.Fatal(err)
	}
	path := w.File("bin/dlv", string(program))
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(path)
}

// atBreakpoint is how long the process stands. The target's liveness probe gives up after 3 s.
const atBreakpoint = time.Minute

// TestWaysDebug stops a swapped Go program at a breakpoint, by delve's own client through the published port, while a
// request is under way: nothing restarts, and the request completes.
func TestWaysDebug(t *testing.T) {
	w := newWorld(t)
	w.Apply(strings.Replace(webScene, "        readinessProbe:",
		"        livenessProbe: {httpGet: {path: /self, port: http}, periodSeconds: 1, timeoutSeconds: 1, failureThreshold: 3}\n        readinessProbe:", 1))
	c := w.NewClient()
	w.WaitAvailable()
	w.Freeze()
	path := "PATH=" + w.Path(delve(t, w))
	const port = "23450"
	swap := func(words ...string) *scene.Run {
		return w.Start(scene.How{Env: []string{path}}, append([]string{w.Lab.Bin.Teleswap, "swap", "web"}, words...)...)
	}
	run := swap("--debug="+port, "--", w.Lab.Bin.Probe, "-listen", ":8080", "-name", "local")
	run.WaitSwapped()
	line := run.WaitStderr(`launch\.json`)
	_, object, _ := strings.Cut(line, `"configurations": `)
	var launch struct {
		Type, Mode, Host string
		Port             int
	}
	if err := json.Unmarshal([]byte(object), &launch); err != nil || launch.Type != "go" || fmt.Sprint(launch.Port) != port {
		t.Errorf("%s: %+v, %v", line, launch, err)
	}
	run.WaitStderr(`JetBrains: .*Go Remote: host 127\.0\.0\.1, port ` + port)
	c.Far("http://web").WaitLocal("local")

	orders, console := io.Pipe()
	defer func() { _ = console.Close() }()
	client := w.Start(scene.How{Env: []string{path}, Stdin: orders}, "dlv", "connect", "127.0.0.1:"+port)
	order := func(text string) {
		t.Helper()
		if _, err := io.WriteString(console, text+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	order("break main.(*probe).self")
	client.WaitStdout(`Breakpoint 1 .*set at`)
	order("continue")
	answer := make(chan scene.Outcome, 1)
	go func() { answer <- c.Do("get", url.Values{"url": {"http://web/self"}, "limit": {"100s"}}) }()
	client.WaitStdout(`> \[Breakpoint 1\]`)
	held := time.NewTimer(atBreakpoint)
	defer held.Stop()
	select {
	case o := <-answer:
		t.Fatalf("the request was answered at the breakpoint: %+v", o)
	case <-held.C:
	}
	for _, p := range w.Pods(scene.SessionLabel) {
		if !scene.Ready(p) {
			t.Errorf("the agent's pod %s is not Ready while the process is stopped", p.Name)
		}
	}
	order("clearall")
	order("continue")
	if o := <-answer; !o.OK || o.Status != 200 || !strings.Contains(o.Body, `"local"`) {
		t.Errorf("the request after the breakpoint: %+v", o)
	}
	restarts := 0
	for _, p := range w.Pods(scene.SessionLabel) {
		for _, s := range p.Status.ContainerStatuses {
			restarts += int(s.RestartCount)
		}
	}
	if agents := w.Pods(scene.SessionLabel); restarts != 0 || len(agents) != 1 {
		t.Errorf("%d restarts, %d agents", restarts, len(agents))
	}
	c.Far("http://web").WaitLocal("local")
	client.Signal(syscall.SIGKILL) // anything else it would ask about, and wait
	_ = console.Close()            // who copies from it must end, too
	client.Wait()
	run.Signal(sigterm)
	run.Wait()
	w.WaitUnchanged()
}

// TestWaysDebugRefuses: what cannot be debugged is said before anything is changed.
func TestWaysDebugRefuses(t *testing.T) {
	w := newWorld(t)
	w.Apply(webScene)
	w.WaitAvailable()
	w.Freeze()
	for name, c := range map[string]struct {
		words []string
		want  []string
	}{
		"no delve":        {[]string{"--debug", "--run", "go", "run", "."}, []string{"go install github.com/go-delve/delve/cmd/dlv@latest"}},
		"unknown command": {[]string{"--debug", "--", "sleep", "9"}, []string{"node, python and java", "--publish PORT"}},
		"no port":         {[]string{"--debug=70000", "--", "node", "a.js"}, []string{"there is no port 70000"}},
		"port twice":      {[]string{"--debug=9000", "--publish", "9000", "--", "java", "A"}, []string{"9000", "given twice"}},
		"a container":     {[]string{"--debug", "--docker-run", "busybox"}, []string{"--publish PORT"}},
		"no such folder":  {[]string{"--watch=nowhere/*.go", "--", "sleep", "9"}, []string{"--watch", "nowhere"}},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, w.Teleswap(append([]string{"swap", "web"}, c.words...)...), 2, c.want...)
		})
	}
}
