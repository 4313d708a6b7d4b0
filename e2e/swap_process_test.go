package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

// TestSwapDemo is the demo's three answers, with `go run`, by both ways to write it.
func TestSwapDemo(t *testing.T) {
	w := newWorld(t)
	w.ApplyGreet()
	c := w.NewClient()
	w.WaitAvailable()
	w.Freeze()
	template := w.RawTemplate("service-a")
	// A module with nothing but the example: the user has no module cache, and needs none.
	w.File("src/go.mod", "module github.com/teleswap/teleswap\n\ngo 1.26\n")
	w.CopyDir("examples/greet/internal", "src/examples/greet/internal")
	dir := w.CopyDir("examples/greet/service-a-next", "src/examples/greet/service-a-next")
	c.WaitService("http://service-a/api/serviceA")
	// The user's build cache is new: compiling is not what is waited for below.
	w.Env = append(w.Env, "CGO_ENABLED=0")
	w.Start(scene.How{Dir: dir}, "go", "build", "-o", "/dev/null", ".").WaitLong(0)
	post := func() scene.Outcome { return c.Post("http://service-a/api/serviceA", `{"message":"Hi"}`) }
	ask := func() string {
		o := post()
		if !o.OK || o.Status != 200 {
			t.Fatalf("ask service-a: %+v", o)
		}
		return strings.TrimSpace(o.Body)
	}
	const before = `{"env":"test","message":"Yo Hi"}`
	for _, args := range [][]string{
		{"swap", "--deployment", "service-a", "--run", "go", "run", "."},
		{"swap", "service-a", "--", "go", "run", "."},
	} {
		if got := ask(); got != before {
			t.Errorf("before: %s, want %s", got, before)
		}
		run := w.Start(scene.How{Dir: dir}, append([]string{w.Lab.Bin.Teleswap}, args...)...)
		run.WaitSwapped()
		w.Eventually("an answer with dateTime", func() string {
			var got struct {
				Env, Message string
				DateTime     int64
			}
			o := post() // the originals are ending
			if err := json.Unmarshal([]byte(o.Body), &got); err != nil || o.Status != 200 || got.Env != "test" || got.Message != "Yo Hi" || got.DateTime == 0 {
				return fmt.Sprintf("%+v", o)
			}
			return ""
		})
		run.SignalGroup(sigint)
		run.Wait() // go run has a status of its own on a signal
		w.WaitUnchanged()
		if got := ask(); got != before {
			t.Errorf("after: %s, want %s", got, before)
		}
		if after := w.RawTemplate("service-a"); after != template {
			t.Errorf("pod template before:\n%s\nafter:\n%s", template, after)
		}
	}
}

// TestSwapPython swaps by Python's own web server. (`go run` is TestSwapDemo, a static binary is in every
// other test.)
func TestSwapPython(t *testing.T) {
	const python = "/usr/bin/python3"
	if _, err := os.Stat(python); err != nil {
		t.Skipf("needs %s, which every user can read: apt-get install python3", python)
	}
	w, c := webWorld(t)
	w.File("site/hello.txt", "hello from python\n")
	run := w.Start(scene.How{Dir: filepath.Join(w.Home, "site")},
		w.Lab.Bin.Teleswap, "swap", "--deployment", "web", "--run", python, "-m", "http.server", "8080")
	run.WaitSwapped()
	w.Eventually("Python's answer", func() string {
		if o := c.Get("http://web/hello.txt"); o.Body != "hello from python\n" {
			return fmt.Sprintf("%+v", o)
		}
		return ""
	})
	// Its log has the real client.
	run.WaitStderr(strings.ReplaceAll(c.IP, ".", `\.`) + ` - - .*GET /hello.txt`)
	run.SignalGroup(sigint)
	run.Wait() // Python's own status on SIGINT
}

// TestSwapStaticBinary swaps by a program that no preloaded library could reach into.
func TestSwapStaticBinary(t *testing.T) {
	w := newWorld(t)
	w.ApplyGreet()
	c := w.NewClient()
	w.WaitAvailable()
	w.Freeze()
	load := c.StartLoad("http://service-a/api/serviceA")
	load.WaitOriginal(50)
	run := w.Teleswap("swap", "service-a", "--", w.Lab.Bin.ServiceANext)
	run.WaitSwapped()
	load.WaitSwapped(100)
	// Not Ctrl-C: it reaches the process at once, and net/http's Shutdown drops what has arrived
	// and is not yet read. This way it is told when its callers have gone.
	w.Output("leave", "service-a")
	run.Wait() // the example's own status
	load.WaitOriginal(100)
	load.Stop().NoneFailed(t)
}

// TestSwapExitStatusAndStreams has the process speak, read and end as it likes: the command
// adds nothing to standard output and takes nothing from it.
func TestSwapExitStatusAndStreams(t *testing.T) {
	w, _ := webWorld(t)
	script := `cat; echo to stdout; echo to stderr >&2; printf '%s|' "$@"; exit 42`
	run := w.Start(scene.How{Stdin: strings.NewReader("from stdin\n")},
		w.Lab.Bin.Teleswap, "swap", "--deployment", "web", "--run", "/bin/sh", "-c", script, "sh", "--context", "a b", "-n", "", "--", "--run")
	run.WaitEnd(42)
	if got, want := run.Stdout(), "from stdin\nto stdout\n--context|a b|-n||--|--run|"; got != want {
		t.Errorf("standard output %q, want %q", got, want)
	}
	contains(t, "standard error", run.Stderr(), "to stderr\n", "restored:")
}

// TestSwapSignalStatus has the process die of a signal.
func TestSwapSignalStatus(t *testing.T) {
	w, _ := webWorld(t)
	run := w.Teleswap("swap", "web", "--", "/bin/sh", "-c", "kill -USR1 $$; sleep 60")
	run.WaitEnd(128 + 10)
}

// TestSwapWithoutAnyPrivilege runs the whole under no_new_privs: not even a setuid program could help.
func TestSwapWithoutAnyPrivilege(t *testing.T) {
	w, c := webWorld(t)
	run := w.Start(scene.How{Wrap: []string{"setpriv", "--no-new-privs", "--"}},
		append([]string{w.Lab.Bin.Teleswap, "swap", "web", "--"}, probe(w)...)...)
	run.WaitSwapped()
	self := c.Far("http://web").WaitLocal("local")
	if self.Status["NoNewPrivs"] != "1" {
		t.Fatalf("NoNewPrivs of the process is %q: the test proves nothing", self.Status["NoNewPrivs"])
	}
	for _, p := range w.Processes() {
		if uid := p.UID(); uid != w.User.UID {
			t.Errorf("process %s runs as uid %d, want %d", p, uid, w.User.UID)
		}
	}
	run.SignalGroup(sigint)
	run.WaitEnd(128 + int(sigint))
}

// TestSwapByRoot: whoever works as root all day can, too.
func TestSwapByRoot(t *testing.T) {
	w, c := webWorld(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root: sudo make e2e")
	}
	root := scene.User{UID: 0}
	// Root's own directories: those of the user are not root's to use.
	env := []string{"HOME=" + w.RootHome(), "XDG_RUNTIME_DIR=" + w.RootHome() + "/run", "XDG_STATE_HOME=" + w.RootHome() + "/state"}
	run := w.Start(scene.How{As: &root, Dir: w.RootHome(), Env: env}, append([]string{w.Lab.Bin.Teleswap, "swap", "web", "--"}, probe(w)...)...)
	run.WaitSwapped()
	c.Far("http://web").WaitLocal("local")
	run.SignalGroup(sigint)
	run.WaitEnd(128 + int(sigint))
	quit := w.Start(scene.How{As: &root, Dir: w.RootHome(), Env: env}, w.Lab.Bin.Teleswap, "quit")
	quit.WaitEnd(0)
}
