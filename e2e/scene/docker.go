package scene

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// dockerGroup is the group of the laptop's Docker socket. No user of the machine is in it.
const dockerGroup = 59999

// Docker is a Docker daemon on the laptop, with images, containers and a socket of this run's own.
type Docker struct {
	Socket string

	dir    string
	daemon *exec.Cmd
	log    string
	ended  chan struct{}
}

// dockerOnce starts Docker when the first test asks for it.
type dockerOnce struct {
	once   sync.Once
	docker *Docker
	err    error
}

// DockerMissing says why there can be no Docker here; "" when there can.
func (l *Lab) DockerMissing() string {
	if l.Laptop.holder == nil {
		return "needs a laptop of its own, which only the embedded cluster has"
	}
	for _, program := range []string{"dockerd", "docker", "containerd"} {
		if _, err := exec.LookPath(program); err != nil {
			return "needs " + program + ": apt-get install docker.io"
		}
	}
	return ""
}

// UseDocker puts the world's user into Docker's group, starts Docker on the laptop if no other test has, and gives it the
// image of the probe, which has a shell, too: its name is returned. At the test's end no container of the world's
// may be left.
func (w *World) UseDocker() (image string) {
	w.T.Helper()
	l := w.Lab
	l.docker.once.Do(func() { l.docker.docker, l.docker.err = l.startDocker(w.T.Context()) })
	w.must(l.docker.err, "start docker")
	w.User.Groups = strconv.Itoa(dockerGroup)
	w.Env = append(w.Env, "DOCKER_HOST=unix://"+l.docker.docker.Socket)
	w.T.Cleanup(w.checkNoContainers)
	return dockerImage
}

const dockerImage = "teleswap.dev/e2e-shell:dev"

// startDocker starts dockerd in the laptop, all of whose files are in the run's folder.
func (l *Lab) startDocker(ctx context.Context) (_ *Docker, err error) {
	d := &Docker{dir: filepath.Join(l.Dir, "docker"), ended: make(chan struct{})}
	d.Socket, d.log = filepath.Join(l.Dir, "docker.sock"), filepath.Join(l.Dir, "docker.log")
	if err := os.Mkdir(d.dir, 0o711); err != nil {
		return nil, fmt.Errorf("make docker's folder: %w", err)
	}
	log, err := os.Create(d.log)
	if err != nil {
		return nil, fmt.Errorf("make docker's log: %w", err)
	}
	defer func() { _ = log.Close() }()
	d.daemon = l.Laptop.command(root, "/", []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + d.dir,
		fmt.Sprintf("%se2e-%d-docker", markerName, os.Getpid()),
	}, "dockerd", "--data-root="+filepath.Join(d.dir, "data"), "--exec-root="+filepath.Join(d.dir, "exec"),
		"--pidfile="+filepath.Join(d.dir, "pid"), "--config-file="+filepath.Join(d.dir, "daemon.json"),
		"--host=unix://"+d.Socket, "--group="+strconv.Itoa(dockerGroup), "--cgroup-parent=/"+dockerCgroup(os.Getpid()),
		"--iptables=false", "--ip6tables=false", "--ip-masq=false", "--ip-forward=false", "--bridge=none", "--shutdown-timeout=5")
	if err := os.WriteFile(filepath.Join(d.dir, "daemon.json"), []byte("{}"), 0o600); err != nil {
		return nil, fmt.Errorf("write docker's configuration: %w", err)
	}
	d.daemon.Stdout, d.daemon.Stderr = log, log
	d.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.daemon.Start(); err != nil {
		return nil, fmt.Errorf("start dockerd: %w", err)
	}
	go func() { // ends with dockerd, which close sees to
		_ = d.daemon.Wait() // how it ended shows in its log
		close(d.ended)
	}()
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if err := d.awaitUp(ctx, l); err != nil {
		return nil, err
	}
	return d, l.loadDockerImages(ctx)
}

func (d *Docker) awaitUp(ctx context.Context, l *Lab) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := runQuietly(l.dockerCommand(ctx, d.Socket, "info"))
		if err == nil {
			return nil
		}
		select {
		case <-d.ended:
			log, _ := os.ReadFile(d.log) // says what there is to say
			return fmt.Errorf("dockerd ended at once:\n%s", tail(string(log), 20))
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// dockerCommand is docker's client, run by root on the laptop.
func (l *Lab) dockerCommand(_ context.Context, socket string, args ...string) *exec.Cmd {
	return l.Laptop.command(root, "/", []string{"PATH=" + os.Getenv("PATH"), "HOME=" + l.Dir, "DOCKER_HOST=unix://" + socket},
		append([]string{"docker"}, args...)...)
}

// loadDockerImages writes an image with the probe and a shell, and loads it.
func (l *Lab) loadDockerImages(ctx context.Context) error {
	archive := filepath.Join(l.Dir, "shell.tar")
	args := []string{
		"image", "build", "--ref", dockerImage, "-o", archive, "--entrypoint", "/probe", "--file", l.Bin.Probe + ":/probe:0755",
		"--package", "dash", "--package", "coreutils", "--env", "FROM_IMAGE=image", "--env", "ENV=of the image",
	}
	if err := runQuietly(l.cluster(ctx, args...)); err != nil {
		return fmt.Errorf("write image %s: %w", dockerImage, err)
	}
	if err := runQuietly(l.dockerCommand(ctx, filepath.Join(l.Dir, "docker.sock"), "load", "-i", archive)); err != nil {
		return fmt.Errorf("load image %s: %w", dockerImage, err)
	}
	return os.Remove(archive)
}

// DockerClient runs docker's client as root on the laptop, which must end well, and returns its output.
func (w *World) DockerClient(args ...string) string {
	w.T.Helper()
	out, err := w.Lab.dockerCommand(w.T.Context(), w.Lab.docker.docker.Socket, args...).CombinedOutput()
	w.must(err, "docker %s: %s", strings.Join(args, " "), out)
	return string(out)
}

// Containers are the names of all containers of the world's sessions, running or not.
func (w *World) Containers(session string) []string {
	w.T.Helper()
	out := w.DockerClient("ps", "--all", "--no-trunc", "--format", "{{.Names}}", "--filter", "name="+session)
	return strings.Fields(out)
}

// checkNoContainers looks for what the world's mark is on: the volumes' sockets are in its folder.
func (w *World) checkNoContainers() {
	out, err := w.Lab.dockerCommand(context.WithoutCancel(w.T.Context()), w.Lab.docker.docker.Socket,
		"ps", "--all", "--format", "{{.Names}} {{.Mounts}}", "--no-trunc").Output()
	if err != nil {
		w.T.Errorf("list containers: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, w.dir+"/") {
			w.T.Errorf("a container is left: %s", line)
		}
	}
}

// close ends dockerd and what it has started, and removes its cgroups.
func (d *Docker) close() error {
	_ = d.daemon.Process.Signal(syscall.SIGTERM) // it may have ended by now
	select {
	case <-d.ended:
	case <-time.After(30 * time.Second):
		_ = d.daemon.Process.Kill()
		<-d.ended
	}
	killMarked(fmt.Sprintf("%se2e-%d-docker", markerName, os.Getpid()))
	return removeGroups(os.Getpid())
}

// dockerCgroup is the name of the cgroup in which all containers of a run are, in each hierarchy.
func dockerCgroup(pid int) string { return "teleswap-e2e-" + strconv.Itoa(pid) }

// removeGroups ends what is left of a run's containers.
func removeGroups(pid int) error {
	var errs []error
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + dockerCgroup(pid)) // the pattern is well-formed
	for _, dir := range append(groups, "/sys/fs/cgroup/"+dockerCgroup(pid)) {
		errs = append(errs, removeGroup(dir))
	}
	return errors.Join(errs...)
}

// removeGroup ends the processes of a cgroup and removes it.
func removeGroup(dir string) error {
	if _, err := os.Stat(dir); err != nil {
		return nil
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if err != nil || !e.IsDir() {
				return nil // it goes while we look
			}
			procs, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			for pid := range strings.FieldsSeq(string(procs)) {
				if n, err := strconv.Atoi(pid); err == nil && n > 1 {
					_ = syscall.Kill(n, syscall.SIGKILL)
				}
			}
			return nil
		})
		var dirs []string
		_ = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				dirs = append([]string{path}, dirs...) // the innermost first
			}
			return nil
		})
		for _, path := range dirs {
			_ = os.Remove(path) // the next round tells
		}
		if _, gone := os.Stat(dir); errors.Is(gone, os.ErrNotExist) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("cgroup %s does not go: %w", dir, errors.Join(err, errors.New("still there")))
		}
		time.Sleep(50 * time.Millisecond)
	}
}
