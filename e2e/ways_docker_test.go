package e2e

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/teleswap/teleswap/e2e/scene"
)

// useDocker gives the world's user docker, and returns an image with the probe and a shell; or it skips the test.
func useDocker(t *testing.T, w *scene.World) string {
	t.Helper()
	if why := w.Lab.DockerMissing(); why != "" {
		t.Skip(why)
	}
	return w.UseDocker()
}

// dockerRun starts a swap by docker run.
func dockerRun(w *scene.World, target string, words ...string) *scene.Run {
	return w.Teleswap(append([]string{"swap", target, "--docker-run"}, words...)...)
}

// swapDocker swaps the web scene by a container of the probe and waits until it answers.
func swapDocker(w *scene.World, c *scene.Client, words ...string) (*scene.Run, scene.Far) {
	w.T.Helper()
	run := dockerRun(w, "web:app", append(words, "-listen", ":8080", "-name", "local")...)
	run.WaitSwapped()
	far := c.Far("http://web")
	far.WaitLocal("local")
	return run, far
}

// TestWaysDocker puts a container in a Deployment's place, as an ordinary user in docker's group and as root.
func TestWaysDocker(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		w.Apply(strings.Replace(webScene, "replicas: 2", "replicas: 1", 1))
		w.Apply(backendScene)
		c := w.NewClient()
		w.WaitAvailable()
		w.Freeze()
		image := useDocker(t, w)
		w.File("mine.env", "FROM_FILE=mine\nPOD_IP=mine\n")
		w.File("work/note", "a note of mine")
		run, far := swapDocker(w, c, "--rm", "-e", "FROM_CONFIG=mine", "--env-file", w.Home+"/mine.env",
			"-v", w.Home+"/work:/work:ro", "-w", "/work", image)
		self := far.WaitLocal("local")
		if self.PID != 1 || self.Dir != "/work" {
			t.Errorf("the process is %d in its container, in %s; want the first, in /work", self.PID, self.Dir)
		}
		if !strings.HasPrefix(self.Peer, c.IP+":") {
			t.Errorf("the client is %s, want %s", self.Peer, c.IP)
		}
		pods := w.Pods(scene.SessionLabel)
		if len(pods) != 1 || self.Hostname != pods[0].Name || !strings.Contains(self.Local, pods[0].Status.PodIP) {
			t.Fatalf("hostname %q, address %s; want those of the agent's pod (of %d)", self.Hostname, self.Local, len(pods))
		}
		env := far.Env()
		for _, want := range []string{
			"MULTILINE=one\ntwo", "SECRET_WORD=" + secretWord, "ENV=test", "FROM_CONFIG=mine", "FROM_FILE=mine", "POD_IP=mine",
			"FROM_IMAGE=image", "HOSTNAME=" + pods[0].Name,
		} {
			if !slices.Contains(env, want) {
				t.Errorf("no %q in %q", want, env)
			}
		}
		if got := far.File("/work/note"); got != "a note of mine" {
			t.Errorf("docker's own -v shows %q", got)
		}
		if o := far.Do("get", "url", "http://service-b:5100/self"); !o.OK || !strings.Contains(o.Body, "backend") {
			t.Errorf("get from a Service: %+v", o)
		}
		// What Docker keeps of the container on the disk has no Secret in it.
		session := readStatus(t, w).Sessions[0].ID
		if all := w.DockerClient("inspect", "teleswap-"+session, "teleswap-"+session+"-net"); strings.Contains(all, secretWord) {
			t.Errorf("docker inspect shows a Secret:\n%s", all)
		}
		in := w.Start(scene.How{Stdin: strings.NewReader("typed")}, w.Lab.Bin.Teleswap, "exec", "web", "--", "sh", "-c", `printf '%s|%s|' "$SECRET_WORD" "$FROM_IMAGE"; cat; exit 7`)
		in.WaitEnd(7)
		if want := secretWord + "|image|typed"; in.Stdout() != want {
			t.Errorf("a command in the container says %q, want %q", in.Stdout(), want)
		}
		run.SignalGroup(sigint)
		run.WaitEnd(128 + int(sigint))
		if left := w.Containers(session); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		w.WaitUnchanged()
	})
}

// dockerFilesScene mounts a Secret that only its owner may read, a ConfigMap, and a folder that a sidecar shares.
var dockerFilesScene = strings.NewReplacer("replicas: 2", "replicas: 1", "    spec:\n      terminationGracePeriodSeconds", `    spec:
      volumes:
      - {name: secret, secret: {secretName: web, defaultMode: 256}}
      - {name: config, configMap: {name: web}}
      - {name: cache, emptyDir: {}}
      securityContext: {fsGroup: 65532}
      terminationGracePeriodSeconds`, "      containers:\n", `      containers:
      - name: sidecar
        image: PROBE
        imagePullPolicy: IfNotPresent
        args: [-listen, ":8081", -name, sidecar]
        volumeMounts: [{name: cache, mountPath: /cache}]
        securityContext: {allowPrivilegeEscalation: false, runAsNonRoot: true, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}
`, "        envFrom:", `        volumeMounts:
        - {name: secret, mountPath: /etc/app/secret, readOnly: true}
        - {name: config, mountPath: /etc/app/config}
        - {name: config, mountPath: /etc/single, subPath: ENV}
        - {name: cache, mountPath: /var/cache/app}
        envFrom:`).Replace(webScene)

// TestWaysDockerFiles has the pod's volumes in the container, as users of its image, in a file system that cannot be
// written to, and beside volumes of the user's own.
func TestWaysDockerFiles(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		w.Apply(dockerFilesScene)
		c := w.NewClient()
		w.WaitAvailable()
		w.Freeze()
		image := useDocker(t, w)
		for _, flags := range [][]string{{}, {"--user", "1234:1234", "--read-only"}} {
			run, far := swapDocker(w, c, append(append([]string{"--rm"}, flags...), image)...)
			for path, want := range map[string]string{
				"/etc/app/secret/SECRET_WORD": secretWord, "/etc/app/config/ENV": "test", "/etc/single": "test",
			} {
				if got := far.File(path); got != want {
					t.Errorf("%v: %s is %q, want %q", flags, path, got, want)
				}
			}
			if o := far.FileOp("write", "/etc/app/secret/x", "x"); o.Errno != "EROFS" {
				t.Errorf("%v: write to a read-only volume: %+v, want EROFS", flags, o)
			}
			// Both ways through the folder that is shared.
			if o := far.FileOp("write", "/var/cache/app/from-container", "hello"); !o.OK {
				t.Errorf("%v: write: %+v", flags, o)
			}
			sidecar := c.Far("http://" + w.Pods(scene.SessionLabel)[0].Status.PodIP + ":8081")
			if got := sidecar.File("/cache/from-container"); got != "hello" {
				t.Errorf("%v: the sidecar reads %q", flags, got)
			}
			if o := sidecar.FileOp("write", "/cache/from-sidecar", "hello back"); !o.OK {
				t.Errorf("%v: the sidecar writes: %+v", flags, o)
			}
			if got := far.File("/var/cache/app/from-sidecar"); got != "hello back" {
				t.Errorf("%v: the container reads %q", flags, got)
			}
			// The sidecar's port is at the container's own 127.0.0.1, as in the pod.
			if o := far.Do("get", "url", "http://127.0.0.1:8081/self"); !o.OK || !strings.Contains(o.Body, "sidecar") {
				t.Errorf("%v: the sidecar at 127.0.0.1: %+v", flags, o)
			}
			run.SignalGroup(sigint)
			run.WaitEnd(128 + int(sigint))
			w.WaitUnchanged()
		}
		// A place of the user's own stays so, and he is told.
		run, far := swapDocker(w, c, "--rm", "-v", w.Home+":/etc/app/config:ro", image)
		w.File("mine", "mine")
		if got := far.File("/etc/app/config/mine"); got != "mine" {
			t.Errorf("docker's -v shows %q", got)
		}
		contains(t, "standard error", run.Stderr(), "/etc/app/config", "you have mounted something else there")
		run.SignalGroup(sigint)
		run.WaitEnd(128 + int(sigint))
	})
}

// TestWaysDockerLiveFiles changes a ConfigMap.
func TestWaysDockerLiveFiles(t *testing.T) {
	w := newWorld(t)
	w.Apply(dockerFilesScene)
	c := w.NewClient()
	w.WaitAvailable()
	w.Freeze()
	_, far := swapDocker(w, c, "--rm", "-u", "4321", useDocker(t, w))
	set := func(value string) {
		t.Helper()
		patch := fmt.Appendf(nil, `{"data":{"ENV":%q}}`, value)
		if _, err := w.Lab.Kube.CoreV1().ConfigMaps(w.Namespace).Patch(t.Context(), "web", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	set("changed")
	w.EventuallyInVolume(w.Pods(scene.SessionLabel)[0].Name, "the new value in the container", func() string {
		if got := c.Get("http://web/file?path=" + url.QueryEscape("/etc/app/config/ENV")); got.Body != "changed" {
			return fmt.Sprintf("%+v", got)
		}
		return ""
	})
	if got := far.File("/etc/single"); got != "test" {
		t.Errorf("a file that is mounted by subPath has changed to %q; in the pod it does not", got)
	}
	set("test") // as the world was frozen
	w.Output("leave", "web")
}

// TestWaysDockerTerminal has a shell in the container, with -it, on the user's terminal.
func TestWaysDockerTerminal(t *testing.T) {
	w := newWorld(t)
	w.Apply(noPortScene)
	w.WaitAvailable()
	w.Freeze()
	image := useDocker(t, w)
	tty := newTerminal(t, w)
	run := w.Start(scene.How{Terminal: tty.slave, Env: []string{"TERM=xterm"}},
		w.Lab.Bin.Teleswap, "swap", "worker", "--docker-run", "--rm", "-it", "--entrypoint", "sh", image)
	_ = tty.slave.Close() // the command has its own; ours would keep the terminal alive
	tty.waitFor(w, "swapped: ")
	tty.enter(t, "echo $((6*7)) on $(tty)\n")
	tty.waitFor(w, "42 on /dev/pts/")
	// "begun" is said by the job itself: a Ctrl-C while dash is still making its child is lost,
	// on any terminal (bare, on a pty: one of ten).
	tty.enter(t, "sh -c \"echo be''gun; exec sleep 1000\"\n")
	tty.waitFor(w, "begun")
	tty.enter(t, "\x03") // the terminal is the shell's: it ends the job, not the swap
	tty.enter(t, "echo st''ill $?\n")
	tty.waitFor(w, "still 130")

	beside := newTerminal(t, w)
	shell := w.Start(scene.How{Terminal: beside.slave, Env: []string{"TERM=xterm", "SHELL=/no/such/shell"}}, w.Lab.Bin.Teleswap, "shell", "worker")
	_ = beside.slave.Close()
	beside.waitFor(w, "# ")
	beside.enter(t, "echo $((6*7)) in $(uname -n) on $(tty)\n")
	beside.waitFor(w, "42 in "+w.Pods(scene.SessionLabel)[0].Name+" on /dev/pts/")
	beside.enter(t, "exit 5\n")
	shell.WaitEnd(5)

	tty.enter(t, "exit 7\n")
	run.WaitEnd(7)
	tty.waitFor(w, "restored:")
	w.WaitUnchanged()
}

// TestWaysDockerEnds ends swaps in every way: no container is left, and the target is as it was.
func TestWaysDockerEnds(t *testing.T) {
	parallel(t)
	for _, tc := range []struct {
		name   string
		end    func(*scene.World, *scene.Run, scene.Far)
		status int
	}{
		{"exit status", func(_ *scene.World, _ *scene.Run, far scene.Far) { far.Exit(42) }, 42},
		{"sigterm", func(_ *scene.World, run *scene.Run, _ scene.Far) { run.Signal(sigterm) }, 128 + int(sigterm)},
		{"leave", func(w *scene.World, _ *scene.Run, _ scene.Far) { w.Output("leave", "web") }, 128 + int(sigterm)},
		{"command killed", func(_ *scene.World, run *scene.Run, _ scene.Far) { run.Signal(sigkill) }, -int(sigkill)},
		{"daemon killed", func(w *scene.World, _ *scene.Run, _ scene.Far) { w.Kill(w.DaemonPID()) }, 1},
		// The daemon cannot kill root's processes itself.
		{"command stopped", func(w *scene.World, run *scene.Run, _ scene.Far) {
			session := readStatus(w.T.(*testing.T), w).Sessions[0].ID
			run.Signal(syscall.SIGSTOP)
			w.Output("leave", "web")
			w.Eventually("the containers to be gone", func() string { return strings.Join(w.Containers(session), " ") })
			run.Signal(syscall.SIGCONT)
		}, 128 + int(sigkill)},
		{"both killed", func(w *scene.World, run *scene.Run, _ scene.Far) { run.Signal(sigkill); w.Kill(w.DaemonPID()) }, -int(sigkill)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, c := webWorld(t)
			run, far := swapDocker(w, c, "--rm", useDocker(t, w))
			session := readStatus(t, w).Sessions[0].ID
			if n := len(w.Containers(session)); n != 2 {
				t.Fatalf("%d containers of session %s, want 2", n, session)
			}
			tc.end(w, run, far)
			run.WaitEnd(tc.status)
			w.Eventually("the containers to be gone", func() string { return strings.Join(w.Containers(session), " ") })
			if tc.name == "both killed" {
				w.Teleswap("status").WaitEnd(0) // a new daemon restores what is left
			}
			w.WaitUnchanged()
		})
	}
}

// TestWaysDockerTwoAtOnce has two containers on the same port.
func TestWaysDockerTwoAtOnce(t *testing.T) {
	w := newWorld(t)
	w.Apply(webScene)
	w.Apply(strings.NewReplacer("name: web", "name: shop", "app: web", "app: shop").Replace(webScene))
	c := w.NewClient()
	w.WaitAvailable()
	w.Freeze()
	image := useDocker(t, w)
	first := dockerRun(w, "web", "--rm", image, "-listen", ":8080", "-name", "first")
	second := dockerRun(w, "shop", "--rm", image, "-listen", ":8080", "-name", "second")
	first.WaitSwapped()
	second.WaitSwapped()
	c.Far("http://web").WaitLocal("first")
	c.Far("http://shop").WaitLocal("second")
	for _, run := range []*scene.Run{first, second} {
		run.SignalGroup(sigint)
	}
	first.WaitEnd(128 + int(sigint))
	second.WaitEnd(128 + int(sigint))
	w.WaitUnchanged()
}

// TestWaysDockerBadInput is refused before anything is changed, in one message.
func TestWaysDockerBadInput(t *testing.T) {
	w := newWorld(t)
	w.Apply(noPortScene)
	w.WaitAvailable()
	w.Freeze()
	image := useDocker(t, w)
	stranger := w.User
	stranger.Groups = ""
	for _, tc := range []struct {
		name   string
		how    scene.How
		words  []string
		status int
		parts  []string
	}{
		{"no docker", scene.How{Wrap: []string{"/usr/bin/env", "PATH=/nonexistent"}}, []string{image}, 1, []string{"no docker in your PATH", "install"}},
		{"not running", scene.How{Env: []string{"DOCKER_HOST=unix://" + w.Home + "/none.sock"}}, []string{image}, 1, []string{"docker is not running", "systemctl start docker"}},
		{"not allowed", scene.How{As: &stranger}, []string{image}, 1, []string{"you may not use docker", "usermod -aG docker", "rootless"}},
		{"another machine", scene.How{Env: []string{"DOCKER_HOST=tcp://192.0.2.1:2376"}}, []string{image}, 1, []string{"another machine", "tcp://192.0.2.1:2376", "DOCKER_HOST"}},
		{"no such image", scene.How{}, []string{"registry.invalid/none:1"}, 1, []string{"registry.invalid/none:1", "docker pull says"}},
		{"no image", scene.How{}, []string{"--rm"}, 2, []string{"needs an image"}},
		{"nothing at all", scene.How{}, nil, 2, []string{"--docker-run needs an image"}},
		{"publish", scene.How{}, []string{"-p", "8080:80", image}, 2, []string{"--publish", "in front", "teleswap swap NAME --publish PORT --docker-run"}},
		{"network", scene.How{}, []string{"--network=host", image}, 2, []string{"--network", "pod's network"}},
		{"detached", scene.How{}, []string{"-d", image}, 2, []string{"--detach", "-d"}},
		{"no such flag", scene.How{}, []string{"--volum", "/a:/b", image}, 2, []string{"--volum", "did you mean --volume"}},
		{"no terminal", scene.How{}, []string{"-it", image}, 2, []string{"terminal"}},
		{"a value that docker does not take", scene.How{}, []string{"--rm", "--memory", "much", image}, 2, []string{"much", "--memory", "nothing is changed"}},
		{"a value that its daemon does not take", scene.How{}, []string{"--rm", "--cpus", "1000", image}, 2, []string{"CPUs", "nothing is changed"}},
		{"a volume of nowhere", scene.How{}, []string{"-v", "/src:work", image}, 2, []string{"--volume /src:work", "absolute"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			writes := w.WatchWrites()
			run := w.Start(tc.how, append([]string{w.Lab.Bin.Teleswap, "swap", "worker", "--docker-run"}, tc.words...)...)
			refused(t, run, tc.status, tc.parts...)
			untouched(t, w, writes)
		})
	}
	// What only docker itself can find is its word, and the cluster is as before.
	run := dockerRun(w, "worker", "--rm", "--user", "nobody-here", image)
	run.WaitEnd(1)
	contains(t, "standard error", run.Stderr(), "nobody-here", "docker run ended with status 12")
	run = dockerRun(w, "worker", "--rm", "--entrypoint", "no-such-program", image)
	run.WaitEnd(1)
	contains(t, "standard error", run.Stderr(), "no-such-program: command not found")
	w.WaitUnchanged()
}

// TestWaysDockerHooks runs the container's hooks in docker's container.
func TestWaysDockerHooks(t *testing.T) {
	w := newWorld(t)
	w.Apply(strings.Replace(webScene, "        envFrom:", `        lifecycle:
          postStart: {exec: {command: [/probe, -write, /dev/shm/hook=ran]}}
          preStop: {httpGet: {path: "/print?text=from+preStop", port: http}}
        envFrom:`, 1))
	c := w.NewClient()
	w.WaitAvailable()
	w.Freeze()
	image := useDocker(t, w)
	run := w.Teleswap("swap", "web", "--lifecycle-hooks", "--docker-run", "--rm", image, "-listen", ":8080", "-name", "local")
	run.WaitSwapped()
	far := c.Far("http://web")
	far.WaitLocal("local")
	if got := far.File("/dev/shm/hook"); got != "ran" {
		t.Errorf("postStart has written %q", got)
	}
	w.Output("leave", "web")
	run.Wait()
	if !strings.Contains(run.Stdout(), "from preStop") {
		t.Errorf("preStop has not called: %q", run.Stdout())
	}
}
