package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

// oldScene is the service of the old command lines: its container is app, its port 5050, and it has a Secret.
var oldScene = `
apiVersion: v1
kind: Secret
metadata: {name: service-a}
stringData: {SECRET_WORD: ` + secretWord + `}
---` + strings.Replace(probeDeployment("service-a", `
        args: [-listen, ":5050", -name, original]
        ports: [{containerPort: 5050}]
        envFrom: [{secretRef: {name: service-a}}]
        volumeMounts: [{name: secret, mountPath: /etc/app}]
        readinessProbe: {httpGet: {path: /self, port: 5050}, periodSeconds: 1}`),
	"      containers:", "      volumes: [{name: secret, secret: {secretName: service-a}}]\n      containers:", 1) + `
---
apiVersion: v1
kind: Service
metadata: {name: service-a}
spec:
  selector: {app: service-a}
  ports: [{port: 5050}]
---` + backendScene

// mainGo answers at 5050, and is quickly compiled.
const mainGo = `package main

import "net"

func main() {
	l, err := net.Listen("tcp", ":5050")
	if err != nil {
		panic(err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			panic(err)
		}
		go func() {
			_, _ = c.Read(make([]byte, 4096))
			_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: close\r\n\r\nfrom main.go"))
			_ = c.Close()
		}()
	}
}
`

// oldWorld is a world with the service and a client, frozen.
func oldWorld(t *testing.T) (*scene.World, *scene.Client) {
	t.Helper()
	w := newWorld(t)
	w.Apply(oldScene)
	c := w.NewClient()
	w.WaitAvailable()
	w.Freeze()
	return w, c
}

// oldLine starts the command line as its users typed it; only the program's name differs. It is words split at spaces, but for those in more.
func oldLine(w *scene.World, how scene.How, line string, more ...string) *scene.Run {
	w.T.Helper()
	line = strings.NewReplacer("CONTEXT", w.CurrentContext(), "NAMESPACE", w.Namespace, "PROBE", w.Lab.Bin.Probe).Replace(line)
	return w.Start(how, append(append([]string{w.Lab.Bin.Teleswap}, strings.Fields(line)...), more...)...)
}

// TestWaysOldCommandLine types the old tool's command lines, and looks at what each did.
func TestWaysOldCommandLine(t *testing.T) {
	parallel(t)
	probe := " --run PROBE -listen :5050 -name local"

	t.Run("go run", func(t *testing.T) {
		w, c := oldWorld(t)
		w.File("src/go.mod", "module example.com/service-a\n\ngo 1.26\n")
		dir := filepath.Dir(w.File("src/main.go", mainGo))
		w.Env = append(w.Env, "CGO_ENABLED=0")
		w.Start(scene.How{Dir: dir}, "go", "build", "-o", "/dev/null", "main.go").WaitLong(0)
		run := oldLine(w, scene.How{Dir: dir}, "--swap-deployment service-a --expose 5050 --run go run main.go")
		run.WaitSwapped()
		contains(t, "the start", run.Stderr(), "the new form is: teleswap swap --deployment service-a --expose 5050 --run go run main.go")
		w.Eventually("an answer of main.go", func() string {
			if o := c.Get("http://service-a:5050/"); o.Body != "from main.go" {
				return o.Body + o.Error
			}
			return ""
		})
		run.SignalGroup(sigint)
		run.Wait() // go run has a status of its own on a signal
		w.WaitUnchanged()
	})
	t.Run("served", func(t *testing.T) {
		w, c := oldWorld(t)
		for _, tc := range []struct{ line, address string }{
			{"--context=CONTEXT --namespace=NAMESPACE --swap-deployment service-a --expose 5050" + probe, "http://service-a:5050"},
			{"-m vpn-tcp -s service-a:app --to-pod 8086 --from-pod 8125 --verbose" + probe, "http://service-a:5050"},
			{"--new-deployment hello --expose 5050:80" + probe, "http://hello"},
		} {
			run := oldLine(w, scene.How{}, tc.line)
			run.WaitSwapped()
			far := c.Far(tc.address)
			far.WaitLocal("local")
			if env := strings.Join(far.Env(), "\n") + "\n"; !strings.Contains(env, "TELEPRESENCE_ROOT=/\n") {
				t.Errorf("%s: no $TELEPRESENCE_ROOT in\n%s", tc.line, env)
			}
			if token := far.File("//var/run/secrets/kubernetes.io/serviceaccount/namespace"); token != w.Namespace {
				t.Errorf("%s: below $TELEPRESENCE_ROOT the namespace is %q", tc.line, token)
			}
			run.SignalGroup(sigint)
			run.WaitEnd(128 + int(sigint))
			w.WaitUnchanged()
		}
	})
	t.Run("run and ended", func(t *testing.T) {
		w, _ := oldWorld(t)
		known := filepath.Join(w.Home, "known")
		for _, tc := range []struct {
			line   string
			more   []string
			status int
			stdout string
			stderr string
		}{
			{"--run curl -sf http://service-b:5100/self", nil, 0, `"Name":"backend"`, "the new form is: teleswap swap --new teleswap-"},
			{"--swap-deployment service-a --run sh -c", []string{"cat $TELEPRESENCE_ROOT/etc/app/SECRET_WORD"}, 0, secretWord, "the new form is"},
			{"--swap-deployment service-a --mount true --run cat /etc/app/SECRET_WORD", nil, 0, secretWord, "the new form is"},
			{"--swap-deployment service-a --mount=" + known + " --run sh -c", []string{"echo $TELEPRESENCE_ROOT; cat $TELEPRESENCE_ROOT/etc/app/SECRET_WORD"}, 0, known + "\n" + secretWord, "--mount " + known},
			{"--swap-deployment service-a --mount false --run ls /etc/app", nil, 2, "", "--mount false"},
			{"--method inject-tcp --swap-deployment service-a --env-json env.json --env-file env.txt --run true", nil, 0, "", "nothing is injected"},
			{"--swap-deployment service-a --run sh -c", []string{"exit 7"}, 7, "", "the new form is"},
			{"--deployment service-a --run true", nil, 2, "", "--swap-deployment service-a"},
			{"--swap-deployment service-a --container-to-host 8080 --run true", nil, 2, "", "host.teleswap.internal"},
		} {
			run := oldLine(w, scene.How{}, tc.line, tc.more...)
			run.WaitEnd(tc.status)
			contains(t, tc.line, run.Stdout(), tc.stdout)
			contains(t, tc.line, run.Stderr(), tc.stderr)
			w.WaitUnchanged()
		}
		for file, want := range map[string]string{"env.json": `"SECRET_WORD": "` + secretWord + `"`, "env.txt": "\nSECRET_WORD=" + secretWord + "\n"} {
			path := filepath.Join(w.Home, file)
			text, err := os.ReadFile(path)
			if err != nil || !strings.Contains("\n"+string(text), want) {
				t.Errorf("%s has not %s: %v", file, want, err)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v, %v; want mode 0600", file, info, err)
			}
		}
		if _, err := os.Stat(known); err == nil {
			t.Errorf("%s is left", known)
		}
	})
	t.Run("a shell", func(t *testing.T) {
		w, _ := oldWorld(t)
		for _, line := range []string{"--swap-deployment service-a --run-shell", "--run-shell"} {
			tty := newTerminal(t, w)
			run := oldLine(w, scene.How{Terminal: tty.slave, Env: []string{"TERM=xterm", "SHELL=/bin/bash"}}, line)
			_ = tty.slave.Close() // the command has its own
			tty.waitFor(w, "@")
			tty.enter(t, "curl -sf http://service-b:5100/self; exit $((40 + 2))\n")
			run.WaitEnd(42)
			tty.waitFor(w, "restored:")
			contains(t, "the terminal", tty.text(), `"Name":"backend"`, "|")
			w.WaitUnchanged()
		}
	})
	t.Run("held", func(t *testing.T) {
		const port = "18747"
		w, c := oldWorld(t)
		run := oldLine(w, scene.How{}, "--new-deployment hello --expose "+port)
		run.WaitStderr(`held for a process that you start yourself`)
		w.Start(scene.How{}, ideProbe(w, port, "ide")...)
		run.WaitSwapped()
		c.Far("http://hello:" + port).WaitLocal("ide")
		run.SignalGroup(sigint)
		run.WaitEnd(0)
		w.WaitUnchanged()
	})
	t.Run("docker run", func(t *testing.T) {
		w, c := oldWorld(t)
		image := useDocker(t, w)
		maker := "make-" + w.Namespace
		w.DockerClient("create", "--name", maker, image)
		w.DockerClient("commit", "--change", `CMD ["-listen", ":5050", "-name", "local"]`, maker, "service-a:0.6.0")
		w.DockerClient("rm", maker)
		defer w.DockerClient("rmi", "service-a:0.6.0")
		tty := newTerminal(t, w)
		run := oldLine(w, scene.How{Terminal: tty.slave, Env: []string{"TERM=xterm"}}, "--swap-deployment service-a:app --docker-run --rm -it service-a:0.6.0")
		_ = tty.slave.Close() // the command has its own
		tty.waitFor(w, "swapped: deployment/")
		c.Far("http://service-a:5050").WaitLocal("local")
		tty.enter(t, "\x03")
		run.Wait()
		tty.waitFor(w, "restored:")
		w.WaitUnchanged()

		// Without a target it is named after the image.
		run = w.Teleswap("swap", "--expose", "5050:80", "--docker-run", "--rm", "service-a:0.6.0")
		run.WaitEnd(2)
		contains(t, "a name that is taken", run.Stderr(), "deployment/service-a exists")
		w.DockerClient("tag", "service-a:0.6.0", "registry.example/team/hello_there:1")
		defer w.DockerClient("rmi", "registry.example/team/hello_there:1")
		run = w.Teleswap("swap", "--expose", "5050:80", "--docker-run", "--rm", "registry.example/team/hello_there:1")
		run.WaitSwapped()
		c.Far("http://hello-there").WaitLocal("local")
		run.SignalGroup(sigint)
		run.Wait()
		w.WaitUnchanged()
	})
}

// TestWaysAlsoProxy has a public address, which only the laptop reaches, go through the pod, which does not.
func TestWaysAlsoProxy(t *testing.T) {
	w, _ := oldWorld(t)
	out := w.Lab.Laptop.Outside
	if out == nil {
		t.Skip("needs a network beyond the laptop, which only the embedded cluster has")
	}
	ask := []string{"-s", "-m", "5", "http://" + out.Address + "/"}
	run := w.Teleswap(append([]string{"swap", "--new", "direct", "--run", needed(t, "curl")}, ask...)...)
	run.WaitEnd(0)
	contains(t, "the answer by the laptop", run.Stdout(), out.Laptop)
	for _, also := range []string{out.Address, "192.0.2.0/24"} {
		run := w.Teleswap(append([]string{"swap", "--new", "direct", "--also-proxy", also, "--run", needed(t, "curl")}, ask...)...)
		if run.Wait() == 0 {
			t.Errorf("--also-proxy %s: answered %q, though the pod cannot reach it", also, run.Stdout())
		}
	}
	w.WaitUnchanged()
}
