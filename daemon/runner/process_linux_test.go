package runner

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/daemon/internal/ordinary"
	"github.com/teleswap/teleswap/daemon/sandbox"
)

// cliArg makes the test binary play the CLI: it reads a Spec from its standard input, runs it and passes signals on.
const cliArg = "__cli"

// teeEnv has the CLI take a copy of the command's output.
const teeEnv = "RUNNER_TEST_TEE"

func cliMain() int {
	var spec Spec
	if err := json.NewDecoder(os.Stdin).Decode(&spec); err != nil {
		fmt.Println(err)
		return 1
	}
	got := make(chan os.Signal, 16)
	signal.Notify(got, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	ctx, cancel := signal.NotifyContext(rootContext(), syscall.SIGUSR2)
	defer cancel()
	stdio := Stdio{Out: os.Stdout, Err: os.Stderr}
	if os.Getenv(teeEnv) != "" {
		stdio.Tee = func(bool, []byte) {}
	}
	p, err := Start(ctx, spec, stdio)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("init", p.cmd.Process.Pid)
	for {
		select {
		case s := <-got:
			_ = p.Signal(s)
		case <-p.Done():
			exit, err := p.Wait()
			fmt.Println("exit", exit.Code, int(exit.Signal), err)
			return exit.Code
		}
	}
}

// cli is a CLI in a process group of its own, as a shell would start it.
type cli struct {
	t    testing.TB
	cmd  *exec.Cmd
	out  *bufio.Reader
	init int

	early []string // lines that came before one that was waited for
}

func (l *lab) startCLI(spec Spec) *cli {
	l.t.Helper()
	cmd := exec.Command(os.Args[0], cliArg)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return l.startCommand(cmd, spec)
}

// startCLIOn starts it on another laptop: one whose files a shell script has changed.
func (l *lab) startCLIOn(script string, spec Spec) *cli {
	l.t.Helper()
	cmd := exec.Command("/bin/sh", "-ec", script+"\nexec \"$0\" "+cliArg, os.Args[0])
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:     true,
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	return l.startCommand(cmd, spec)
}

func (l *lab) startCommand(cmd *exec.Cmd, spec Spec) *cli {
	l.t.Helper()
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		l.t.Fatal(err)
	}
	cmd.Stdout = outW
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	_ = outW.Close()
	if err := json.NewEncoder(in).Encode(spec); err != nil {
		l.t.Fatal(err)
	}
	c := &cli{t: l.t, cmd: cmd, out: bufio.NewReader(outR)}
	l.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = outR.Close()
	})
	if _, err := fmt.Sscanf(c.want("init "), "init %d", &c.init); err != nil {
		l.t.Fatal(err)
	}
	return c
}

// want returns the first line that starts with prefix, of those that came early and those to come.
func (c *cli) want(prefix string) string {
	c.t.Helper()
	if i := slices.IndexFunc(c.early, func(line string) bool { return strings.HasPrefix(line, prefix) }); i >= 0 {
		line := c.early[i]
		c.early = slices.Delete(c.early, i, i+1)
		return line
	}
	for {
		line, err := c.out.ReadString('\n')
		if err != nil {
			c.t.Fatalf("waiting for %q: %v after %q", prefix, err, c.early)
		}
		if strings.HasPrefix(line, prefix) {
			return strings.TrimSpace(line)
		}
		c.early = append(c.early, strings.TrimSpace(line))
	}
}

// pid reads the process id from a line of a child that starts with prefix.
func (c *cli) pid(prefix string) int {
	c.t.Helper()
	fields := strings.Fields(c.want(prefix))
	pid, err := strconv.Atoi(fields[len(fields)-1])
	if err != nil {
		c.t.Fatal(err)
	}
	return pid
}

// state is a process's state letter, Z also where there is none.
func state(pid int) byte {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 'Z'
	}
	return b[strings.LastIndexByte(string(b), ')')+2]
}

func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		name  string
		child []string
		want  Exit
	}{
		{"ends well", []string{"exit", "0"}, Exit{}},
		{"has a status", []string{"exit", "42"}, Exit{Code: 42}},
		{"is killed", []string{"die"}, Exit{Code: 137, Signal: syscall.SIGKILL}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, nil)
			if _, exit := l.start(l.spec(c.child...)).output(); exit != c.want {
				t.Errorf("got %+v, want %+v", exit, c.want)
			}
		})
	}
}

func TestStartFails(t *testing.T) {
	for _, c := range []struct {
		name, want string
		change     func(*lab, *Spec)
	}{
		{"command not found", "no-such-command-anywhere: command not found", func(_ *lab, s *Spec) { s.Argv = []string{"no-such-command-anywhere"} }},
		{"not executable", "permission denied", func(_ *lab, s *Spec) { s.Argv = []string{"/dev/null"} }},
		{"no such directory", "no such file or directory", func(_ *lab, s *Spec) { s.Dir = "/no/such/directory" }},
		{"no daemon", "reach the daemon", func(_ *lab, s *Spec) { s.Handoff += ".nowhere" }},
		{"the daemon refuses", "not your session", func(l *lab, _ *Spec) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.refuse = errors.New("not your session")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, nil)
			spec := l.spec("exit", "0")
			c.change(l, &spec)
			p, err := Start(t.Context(), spec, Stdio{})
			if err == nil {
				_, _ = p.Wait()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestSandboxShowsThePod(t *testing.T) {
	before, _ := os.ReadFile("/etc/resolv.conf")
	hostname, _ := os.Hostname()
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	l := newLab(t, nil)
	spec := l.spec("show")
	spec.Hosts = []byte("10.42.0.7 service-a-0\n")
	spec.Dir = "/"
	out, _ := l.start(spec).output()
	lines := strings.Split(out, "\n")
	for _, want := range []string{
		"hostname=service-a-0",
		`resolv="nameserver 10.96.0.10\n"`,
		`hosts="10.42.0.7 service-a-0\n"`,
		fmt.Sprintf("uid=%d gid=%d", os.Getuid(), os.Getgid()),
		"env=Yo", "dir=/",
		fmt.Sprintf("pgrp=%d", unix.Getpgrp()),
		"interface=eth0 65520 [10.42.0.7/32]",
		"CapAmb:0000000000000000",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %q in\n%s", want, out)
		}
	}
	if os.Getuid() != 0 && !slices.Contains(lines, "CapPrm:0000000000000000") {
		t.Errorf("the command has capabilities:\n%s", out)
	}
	if strings.Contains(out, "leaked=") {
		t.Errorf("descriptors of ours reached the command:\n%s", out)
	}
	after, _ := os.ReadFile("/etc/resolv.conf")
	hostnameAfter, _ := os.Hostname()
	mountsAfter, _ := os.ReadFile("/proc/self/mountinfo")
	if string(after) != string(before) || hostname != hostnameAfter || string(mounts) != string(mountsAfter) {
		t.Error("the laptop has changed")
	}
}

// TestLaptopsFiles: however the laptop keeps its resolv.conf, the command sees the pod's, and all else as before.
func TestLaptopsFiles(t *testing.T) {
	for _, c := range []struct{ name, script string }{
		{"a file", "echo old >/etc/resolv.conf"},
		{"a link", "mkdir /etc/run; echo old >/etc/run/stub; ln -s run/stub /etc/resolv.conf"},
		{"a chain of links", "echo old >/etc/a; ln -s a /etc/b; ln -s /etc/b /etc/resolv.conf"},
		{"no file", "true"},
		{"a link to nowhere", "mkdir -p /etc/run/x; echo kept >/etc/run/kept; ln -s run/gone/stub /etc/resolv.conf"},
		{"systemd-resolved's nsswitch.conf", "echo 'hosts: resolve [!UNAVAIL=return] dns' >/etc/nsswitch.conf"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, nil)
			spec := l.spec()
			spec.Hosts = []byte("10.42.0.7 service-a-0\n")
			spec.Argv = []string{"/bin/sh", "-c", "cat /etc/resolv.conf /etc/hosts /etc/dir/file /etc/link; ls /etc; grep -s hosts: /etc/nsswitch.conf"}
			cli := l.startCLIOn("mount -t tmpfs tmpfs /etc; mkdir /etc/dir; echo content >/etc/dir/file; ln -s dir/file /etc/link\n"+c.script, spec)
			var got []string
			for line := cli.want(""); !strings.HasPrefix(line, "exit"); line = cli.want("") {
				got = append(got, line)
			}
			if len(got) < 4 || !slices.Equal(got[:4], []string{"nameserver 10.96.0.10", "10.42.0.7 service-a-0", "content", "content"}) {
				t.Errorf("got %q", got)
			}
			if strings.Contains(c.name, "nsswitch") && !slices.Contains(got, "hosts: files dns") {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestSignalsReachTheCommandOnce(t *testing.T) {
	l := newLab(t, nil)
	c := l.startCLI(l.spec("signals"))
	c.pid("ready")
	// As a terminal's Ctrl-C: to the whole process group. The CLI passes it on, and the command must not get it twice.
	if err := syscall.Kill(-c.cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if got := c.want(""); got != "interrupt" {
		t.Fatal(got)
	}
	// To the CLI alone, as by kill(1).
	if err := c.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if got := c.want(""); got != "hangup" {
		t.Fatal(got)
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := c.want(""); got != "terminated" {
		t.Fatal(got)
	}
	if got := c.want("exit"); got != "exit 7 0 <nil>" {
		t.Error(got)
	}
}

func TestStopAndContinue(t *testing.T) {
	l := newLab(t, nil)
	c := l.startCLI(l.spec("signals"))
	child := c.pid("ready")
	group := []int{c.cmd.Process.Pid, c.init, child}
	if err := syscall.Kill(-c.cmd.Process.Pid, syscall.SIGTSTP); err != nil {
		t.Fatal(err)
	}
	for _, pid := range group {
		eventually(t, "all are stopped", func() bool { return state(pid) == 'T' })
	}
	if err := syscall.Kill(-c.cmd.Process.Pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for _, pid := range group {
		eventually(t, "all go on", func() bool { return state(pid) != 'T' })
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.want("terminated")
	c.want("exit 7 0")
}

func TestNothingOutlivesTheCommand(t *testing.T) {
	for _, c := range []struct {
		name, leftover string
		atLeast        time.Duration
	}{
		{"daemons that heed SIGTERM", "sleep", 0},
		{"daemons that do not", "stubborn", 5 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, nil)
			p := l.start(l.spec("family", "go", c.leftover))
			var left []int
			for line := p.line(); line != "family"; line = p.line() {
				pid, err := strconv.Atoi(strings.Fields(line)[1])
				if err != nil {
					t.Fatal(err)
				}
				left = append(left, pid)
			}
			// The sandbox's end comes after theirs.
			exit, err := p.Wait()
			if err != nil || exit.Code != 3 {
				t.Errorf("%+v, %v", exit, err)
			}
			for _, pid := range left {
				if state(pid) != 'Z' {
					t.Errorf("process %d is still there", pid)
				}
			}
		})
	}
}

func TestKilledCLIEndsTheTree(t *testing.T) {
	l := newLab(t, nil)
	c := l.startCLI(l.spec("family", "stay"))
	tree := []int{c.init, c.pid("sleeping"), c.pid("sleeping")}
	c.want("family")
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range tree {
		eventually(t, "the tree has ended", func() bool { return state(pid) == 'Z' })
	}
}

// TestKilledInit: the child dies with the first process; the daemon ends the others by the network namespace.
func TestKilledInit(t *testing.T) {
	l := newLab(t, nil)
	c := l.startCLI(l.spec("family", "stay"))
	left := []int{c.pid("sleeping"), c.pid("sleeping")}
	c.want("family")
	in, err := sandbox.Processes(l.box.NetNS)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range append(left, c.init) {
		if !slices.Contains(in, pid) {
			t.Errorf("process %d is not among the sandbox's: %v", pid, in)
		}
	}
	if err := syscall.Kill(c.init, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := c.want("exit"); !strings.HasPrefix(got, "exit 137 9") {
		t.Error(got)
	}
	if err := sandbox.Kill(l.box.NetNS, syscall.SIGKILL, left[0]); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second has ended", func() bool { return state(left[1]) == 'Z' })
	if state(left[0]) == 'Z' {
		t.Error("the excepted process was killed")
	}
	if err := sandbox.Kill(l.box.NetNS, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first has ended", func() bool { return state(left[0]) == 'Z' })
}

func TestCancelledStart(t *testing.T) {
	l := newLab(t, nil)
	// A handoff socket that nobody serves: connect() succeeds, the answer never comes.
	silent := filepath.Join(socketDir(t), "silent.sock")
	lis, err := sandbox.ListenHandoff(t.Context(), silent, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	spec := l.spec("exit", "0")
	spec.Handoff = silent
	ctx, cancel := cancelAfter(t, 300*time.Millisecond)
	defer cancel()
	if _, err := Start(ctx, spec, Stdio{}); !errors.Is(err, ctx.Err()) || err == nil {
		t.Errorf("got %v", err)
	}
}

// TestAsOrdinaryUser runs all tests again as a user without any privilege.
func TestAsOrdinaryUser(t *testing.T) { ordinary.Rerun(t) }
