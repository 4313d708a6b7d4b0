package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

// tinyScene is a Deployment and a Service of one name and port.
func tinyScene(name string, port int) string {
	return probeDeployment(name, strings.ReplaceAll(`
        args: [-listen, ":NUMBER", -name, original]
        ports: [{name: http, containerPort: NUMBER}]
        readinessProbe: {httpGet: {path: /self, port: http}, periodSeconds: 1}`, "NUMBER", fmt.Sprint(port))) + strings.NewReplacer("NAME", name).Replace(`
---
apiVersion: v1
kind: Service
metadata: {name: NAME}
spec:
  selector: {app: NAME}
  ports: [{port: 80, targetPort: http}]
`)
}

// TestWaysUp swaps ten workloads of two namespaces at once, by one file; those of one name, and two of them on port 8080. One Ctrl-C ends all.
func TestWaysUp(t *testing.T) {
	w := newWorld(t)
	other := stage.lab.NewWorld(t)
	const each = 5
	file := "sessions:\n"
	type session struct{ name, base string }
	var sessions []session
	for i := range each {
		for j, world := range []*scene.World{w, other} {
			port := 8080
			if i > 0 {
				port += 2*i + j
			}
			target := fmt.Sprintf("s%d", i)
			world.Apply(tinyScene(target, port))
			s := session{fmt.Sprintf("%s-%d", target, j), "http://" + target + "." + world.Namespace}
			file += fmt.Sprintf("  %s: {target: %s, namespace: %s, command: [%q, -listen, ':%d', -name, %s], env: {SESSION: %s}}\n",
				s.name, target, world.Namespace, w.Lab.Bin.Probe, port, s.name, s.name)
			sessions = append(sessions, s)
		}
	}
	c := w.NewClient()
	for _, world := range []*scene.World{w, other} {
		world.WaitAvailable()
		world.Freeze()
	}
	w.File("shop/.teleswap.yaml", file)
	below := filepath.Dir(w.File("shop/deep/er/file", ""))
	run := w.Start(scene.How{Dir: below}, w.Lab.Bin.Teleswap, "up")
	for _, s := range sessions { // each has a wait's patience
		run.WaitStderr(`^` + s.name + ` \| swapped: `)
	}
	run.WaitStderr(`^all 10 sessions are swapped`)
	for _, s := range sessions {
		far := c.Far(s.base)
		far.WaitLocal(s.name)
		contains(t, "the environment of "+s.name, strings.Join(far.Env(), "\n"), "SESSION="+s.name)
		run.WaitStdout(`^` + s.name + ` \| listening on `)
	}
	for _, p := range w.Processes() {
		if strings.Contains(strings.Join(p.Args, " "), "SESSION=") {
			t.Errorf("a variable's value is in a command line, for everybody to see: %s", p)
		}
	}
	run.SignalGroup(sigint)
	run.WaitLong(0)
	for _, s := range sessions {
		contains(t, "standard error", run.Stderr(), s.name+" | restored: ")
		c.Far(s.base).WaitLocal("original")
	}
	w.WaitUnchanged()
	other.WaitUnchanged()
}

// upWorld is a world with two Deployments, and a file that swaps them. first is the command of the first; PROBE in it is the probe.
func upWorld(t *testing.T, first string) (*scene.World, *scene.Client, scene.How) {
	t.Helper()
	w := newWorld(t)
	w.Apply(tinyScene("a", 8080))
	w.Apply(tinyScene("b", 8080))
	c := w.NewClient()
	w.WaitAvailable()
	w.Freeze()
	path := w.File("shop/.teleswap.yaml", fmt.Sprintf(`sessions:
  a: {target: a, command: %s}
  b: {target: b, command: [%q, -listen, ":8080", -name, local-b]}
`, strings.ReplaceAll(first, "PROBE", w.Lab.Bin.Probe), w.Lab.Bin.Probe))
	return w, c, scene.How{Dir: filepath.Dir(path)}
}

// TestWaysUpKilled kills `up`: its sessions notice, and restore.
func TestWaysUpKilled(t *testing.T) {
	w, c, how := upWorld(t, `[PROBE, -listen, ":8080", -name, local-a, -drain]`)
	run := w.Start(how, w.Lab.Bin.Teleswap, "up")
	run.WaitStderr("all 2 sessions are swapped")
	c.Far("http://a").WaitLocal("local-a")
	run.Signal(syscall.SIGKILL)
	run.WaitEnd(-int(syscall.SIGKILL))
	w.WaitUnchanged()
	w.Eventually("the sessions' processes to be gone", func() string {
		for _, p := range w.Processes() {
			if strings.Contains(strings.Join(p.Args, " "), "--overseer") {
				return p.String()
			}
		}
		return ""
	})
	c.Far("http://b").WaitLocal("original")
}

// TestWaysUpFails has one of two sessions fail: before both are swapped it takes the other with it, but with --keep-going; and afterwards
// it does not.
func TestWaysUpFails(t *testing.T) {
	w, c, how := upWorld(t, "'test -e go || exit 3; PROBE -listen :8080 & while test -e go; do sleep 0.1; done; exit 4'")
	run := w.Start(how, w.Lab.Bin.Teleswap, "up")
	run.WaitStderr("a failed before all were swapped")
	run.WaitEnd(3)
	contains(t, "standard error", run.Stderr(), "1 of 2 sessions failed: a (exit status 3)")
	w.WaitUnchanged()

	run = w.Start(how, w.Lab.Bin.Teleswap, "up", "--keep-going")
	run.WaitStderr(`^b \| swapped: `)
	c.Far("http://b").WaitLocal("local-b")
	run.Signal(syscall.SIGTERM)
	run.WaitEnd(3)
	w.WaitUnchanged()

	goes := w.File("shop/go", "")
	run = w.Start(how, w.Lab.Bin.Teleswap, "up")
	run.WaitStderr("all 2 sessions are swapped")
	if err := os.Remove(goes); err != nil {
		t.Fatal(err)
	}
	run.WaitStderr(`^a \| restored: `)
	c.Far("http://b").WaitLocal("local-b")
	run.Signal(syscall.SIGTERM)
	run.WaitEnd(4)
	w.WaitUnchanged()
}

// TestWaysUpHoldsAndMakes has a session that waits for a process of the user's, and one of what did not exist.
func TestWaysUpHoldsAndMakes(t *testing.T) {
	w, c, how := upWorld(t, "x")
	w.File("shop/.teleswap.yaml", fmt.Sprintf(`sessions:
  held: {target: a, expose: [18751:8080]}
  made: {new: fresh, expose: [8080:80], command: [%q, -listen, ":8080", -name, local-made]}
`, w.Lab.Bin.Probe))
	run := w.Start(how, w.Lab.Bin.Teleswap, "up")
	run.WaitStderr(`^held \| .*held for a process that you start yourself`)
	run.WaitStderr(`^made \| swapped: `)
	c.Far("http://a").WaitLocal("original")
	ide := w.Start(scene.How{}, ideProbe(w, "18751", "ide")...)
	run.WaitStderr("all 2 sessions are swapped")
	c.Far("http://a").WaitLocal("ide")
	c.Far("http://fresh").WaitLocal("local-made")
	run.SignalGroup(sigint)
	run.WaitEnd(0)
	contains(t, "the end", run.Stderr(), "made | restored: ", "is gone, as before", "held | restored: ")
	w.WaitUnchanged()
	ide.Signal(sigterm)
	ide.Wait()
}

// TestWaysUpTerminal has a terminal show a line a session, and types Ctrl-C, which reaches the processes once.
func TestWaysUpTerminal(t *testing.T) {
	w, c, how := upWorld(t, `[PROBE, -listen, ":8080", -name, local-a]`)
	tty := newTerminal(t, w)
	how.Terminal, how.Env = tty.slave, []string{"TERM=xterm"}
	run := w.Start(how, w.Lab.Bin.Teleswap, "up")
	_ = tty.slave.Close() // the command has its own
	tty.waitFor(w, "all 2 sessions are swapped")
	contains(t, "the terminal", tty.text(), "\x1b[36ma |\x1b[0m", "\x1b[32m✓\x1b[0m b", "\x1b[2A\x1b[J")
	c.Far("http://a").WaitLocal("local-a")
	tty.enter(t, "\x03")
	run.WaitEnd(0)
	w.WaitUnchanged()
	if n := strings.Count(tty.text(), "signal interrupt"); n != 2 {
		t.Errorf("the two processes got %d SIGINTs; terminal:\n%s", n, tty.text())
	}
}

// TestWaysUpCompose swaps the services of a compose file that name a target: one by a command of the laptop, one by its container.
func TestWaysUpCompose(t *testing.T) {
	w, c, how := upWorld(t, "x")
	compose := `services:
  a:
    image: a
    environment: {MODE: "${MODE}", PORT: 8080}
    ports: ["18080:8080"]
    x-teleswap: {target: deployment/a:app, command: [PROBE, -listen, ":8080", -name, local-a]}
  db:
    image: postgres
`
	image := ""
	if w.Lab.DockerMissing() == "" {
		image = w.UseDocker()
		compose += `
  b:
    image: IMAGE
    command: -listen :8080 -name local-b
    environment: {MODE: "${MODE}"}
    volumes: ["./work:/work:ro"]
    working_dir: /work
    x-teleswap: {target: b}
`
	}
	w.File("shop/work/note", "a note of mine")
	w.File("shop/.env", "MODE=dotenv\n")
	w.File("shop/docker-compose.yml", strings.NewReplacer("PROBE", w.Lab.Bin.Probe, "IMAGE", image).Replace(compose))
	run := w.Start(how, w.Lab.Bin.Teleswap, "up", "--compose", "docker-compose.yml")
	run.WaitStderr(`^a \| swapped: `)
	far := c.Far("http://a")
	far.WaitLocal("local-a")
	contains(t, "the environment", strings.Join(far.Env(), "\n"), "MODE=dotenv", "PORT=8080")
	if image != "" {
		run.WaitStderr(`^b \| swapped: `)
		far := c.Far("http://b")
		if self := far.WaitLocal("local-b"); self.PID != 1 || self.Dir != "/work" {
			t.Errorf("the process is %d in its container, in %s; want the first, in /work", self.PID, self.Dir)
		}
		contains(t, "the container's environment", strings.Join(far.Env(), "\n"), "MODE=dotenv")
		contains(t, "the volume's file", far.File("/work/note"), "a note of mine")
	} else {
		t.Log("without the container: ", w.Lab.DockerMissing())
	}
	run.SignalGroup(sigint)
	run.WaitEnd(0)
}

// TestWaysInit writes a project file for a Deployment of the cluster, and starts what it says.
func TestWaysInit(t *testing.T) {
	w, c, _ := upWorld(t, "x")
	how := scene.How{Dir: filepath.Dir(w.File("mine/file", ""))}
	teleswap := func(want int, args ...string) *scene.Run {
		t.Helper()
		run := w.Start(how, append([]string{w.Lab.Bin.Teleswap}, args...)...)
		run.WaitEnd(want)
		return run
	}
	contains(t, "standard error", teleswap(2, "init", "--deployment", "aa", "--", "sh").Stderr(), `no deployment "aa"`, "did you mean a?")
	teleswap(0, "init", "--deployment", "a", "--", w.Lab.Bin.Probe, "-listen", ":8080", "-name", "local-a")
	contains(t, "standard output", teleswap(0, "config", "validate").Stdout(), "ok, 1 session")

	tty := newTerminal(t, w)
	picking := scene.How{Dir: how.Dir, Terminal: tty.slave, Env: []string{"TERM=xterm"}}
	pick := w.Start(picking, w.Lab.Bin.Teleswap, "init", "--force", "--", w.Lab.Bin.Probe, "-listen", ":8080", "-name", "local-b")
	_ = tty.slave.Close() // the command has its own
	tty.waitFor(w, "2 of 2; arrows")
	tty.enter(t, "\x1b[B\r")
	pick.WaitEnd(0)
	run := w.Start(how, w.Lab.Bin.Teleswap, "up")
	run.WaitStderr(`^b \| swapped: `)
	c.Far("http://b").WaitLocal("local-b")
	run.SignalGroup(sigint)
	run.WaitEnd(0)
}
