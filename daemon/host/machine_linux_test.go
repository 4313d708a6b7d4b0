package host

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/daemon/host/warden"
)

// The tests of this file connect a machine of their own: network and mounts in namespaces, with a cluster in memory. The test binary is
// also the daemon and the warden.

const (
	// lookupTime is what a lookup takes at most whose question a killed daemon had in its hands: a second until the C library asks
	// the next nameserver, and what a busy machine adds.
	lookupTime = 2 * time.Second

	inside    = "HOST_TEST_INSIDE"
	daemonArg = "__hostdaemon"
	before    = "# mine\nnameserver 127.0.0.1\n"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case warden.Arg:
			os.Exit(warden.Main(context.Background(), os.Args[2:], os.Stderr))
		case daemonArg:
			os.Exit(playDaemon(os.Args[2]))
		}
	}
	os.Exit(m.Run())
}

// onOwnMachine runs the test again as root of namespaces of its own, and returns false in the process that does so.
func onOwnMachine(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inside) == t.Name() {
		setUpMachine(t)
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("a machine of its own needs root: run this test as root")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v="+strconv.FormatBool(testing.Verbose()), "-test.short="+strconv.FormatBool(testing.Short()))
	cmd.Env = append(os.Environ(), inside+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	return false
}

// setUpMachine gives the namespaces a loopback, a network card, a resolv.conf and whom that names.
func setUpMachine(t *testing.T) {
	t.Helper()
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	real, err := filepath.EvalSymlinks("/etc/resolv.conf")
	for _, err := range []error{
		err, os.WriteFile(resolv, []byte(before), 0o644),
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount(resolv, real, "", unix.MS_BIND, ""),
		unix.Mount("tmpfs", "/var/lib", "tmpfs", 0, ""),
		unix.Mount("tmpfs", "/run", "tmpfs", 0, ""), // nobody is on D-Bus here
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	// No link-local addresses: they would come a moment after their cards.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"ip link set lo up", "ip link add eth0 type veth peer name far0", "ip link set far0 up", "ip addr add 192.168.1.5/24 dev eth0", "ip link set eth0 up", "ip route add default via 192.168.1.1",
	} {
		run(t, strings.Fields(line)...)
	}
	serveOutside(t)
}

func run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", argv, err, out)
	}
	return string(out)
}

// serveOutside is the machine's former nameserver.
func serveOutside(t *testing.T) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		a := answerFrom(q, map[string]string{"public.example.com.": "192.0.2.10"})
		_ = w.WriteMsg(a)
	})}
	go func() { _ = server.ActivateAndServe() }() // ends with the test
	t.Cleanup(func() { _ = server.Shutdown() })
}

func answerFrom(q *dns.Msg, zone map[string]string) *dns.Msg {
	a := new(dns.Msg)
	a.SetReply(q)
	asked := q.Question[0]
	ip, known := zone[dns.CanonicalName(asked.Name)]
	switch {
	case !known:
		a.Rcode = dns.RcodeNameError
	case asked.Qtype == dns.TypeA:
		a.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: asked.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 30}, A: net.ParseIP(ip)}}
	}
	return a
}

// memory is a cluster in memory: every TCP port 80 says what it was reached at, UDP echoes, one address answers pings.
type memory struct{}

func (memory) DialContext(_ context.Context, network, address string) (net.Conn, error) {
	if network == "tcp" && !strings.HasSuffix(address, ":80") {
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	}
	near, far := net.Pipe()
	go func() { // ends with the connection
		defer func() { _ = far.Close() }()
		if network == "tcp" {
			_, _ = io.WriteString(far, "this is "+address)
			return
		}
		buf := make([]byte, 2000)
		for {
			n, err := far.Read(buf)
			if err != nil {
				return
			}
			if _, err := far.Write(append([]byte("echo "), buf[:n]...)); err != nil {
				return
			}
		}
	}()
	return near, nil
}

func (memory) Ping(_ context.Context, dst netip.Addr, _ []byte) error {
	if dst == netip.MustParseAddr("10.244.0.9") {
		return nil
	}
	return syscall.EHOSTUNREACH
}

func (memory) Exchange(_ context.Context, msg []byte) ([]byte, error) {
	q := new(dns.Msg)
	if err := q.Unpack(msg); err != nil {
		return nil, err
	}
	return answerFrom(q, map[string]string{"service-b.shop.svc.cluster.local.": "10.96.0.7", "db.data.svc.cluster.local.": "10.96.0.8"}).Pack()
}

func config() Config {
	return Config{
		Session: "k3f9qz", About: "namespace shop", Cluster: memory{}, Namespace: "shop", Namespaces: []string{"shop"},
		Search: []string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local"}, Ranges: prefixes("10.96.0.0/12", "10.244.0.0/16", "fd00:10:96::/112"),
	}
}

// playDaemon is a daemon that connects, says each step, and disconnects when its standard input ends.
func playDaemon(dir string) int {
	ctx := context.Background()
	err := func() error {
		cfg := config()
		cfg.AllowConflicts = os.Getenv("HOST_TEST_ALLOW") != ""
		if text := os.Getenv("HOST_TEST_MAP"); text != "" {
			cfg.Map = netip.MustParsePrefix(text)
		}
		prepared, err := Prepare(ctx, cfg)
		if err != nil {
			return err
		}
		fmt.Println("prepared", prepared.Choice)
		socket := filepath.Join(dir, "host.sock")
		l, err := warden.ListenWardens(socket)
		if err != nil {
			return err
		}
		defer func() { _ = l.Close() }()
		if out, err := exec.Command("/proc/self/exe", warden.Arg, socket, "k3f9qz").CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		w, err := l.Await(ctx, "k3f9qz")
		if err != nil {
			return err
		}
		fmt.Println("warden", w.PID)
		c, err := prepared.Connect(ctx, w, func(step, detail string, done bool) { fmt.Println(step, done, detail) })
		if err != nil {
			return err
		}
		fmt.Println("connected")
		_, _ = io.Copy(io.Discard, os.Stdin)
		fmt.Println("ending")
		return c.Close(ctx)
	}()
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	fmt.Println("ended")
	return 0
}

// playing is such a daemon.
type playing struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.Closer
	lines  *bufio.Scanner
	warden int
	said   []string
}

func play(t *testing.T, env ...string) *playing {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", daemonArg, t.TempDir())
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return &playing{t: t, cmd: cmd, stdin: stdin, lines: bufio.NewScanner(stdout)}
}

// next is the next line that it says; false: it has ended.
func (p *playing) next() (string, bool) {
	if !p.lines.Scan() {
		return "", false
	}
	line := p.lines.Text()
	p.said = append(p.said, line)
	if pid, is := strings.CutPrefix(line, "warden "); is {
		p.warden, _ = strconv.Atoi(pid)
	}
	return line, true
}

// until waits for a line.
func (p *playing) until(want string) {
	p.t.Helper()
	for {
		line, ok := p.next()
		if !ok {
			p.t.Fatalf("it ended before it said %q; it said %q", want, p.said)
		}
		if strings.HasPrefix(line, want) {
			return
		}
	}
}

// kill ends it, its warden, or both, as nothing can be done about.
func (p *playing) kill(daemon, root bool) {
	if root && p.warden > 1 {
		_ = syscall.Kill(p.warden, syscall.SIGKILL)
	}
	if daemon {
		_ = p.cmd.Process.Kill()
	}
}

func (p *playing) end() {
	_ = p.stdin.Close()
	for {
		if _, ok := p.next(); !ok {
			break
		}
	}
	_ = p.cmd.Wait()
}

// machineState is all that might have been changed.
func machineState(t *testing.T) string {
	t.Helper()
	conf, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(warden.Dir + "/*.json*") // the directory alone tells nobody to do anything
	return string(conf) + run(t, "ip", "-o", "addr") + run(t, "ip", "route", "show", "table", "all") + run(t, "ip", "-6", "route", "show", "table", "all") +
		run(t, "ip", "rule") + run(t, "nft", "list", "ruleset") + strings.Join(left, " ")
}

// backAsBefore waits until the machine is as before. What has died lets go of its files a moment later; what it left the next command
// puts back.
func backAsBefore(t *testing.T, was string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for machineState(t) != was {
		if warden.LeftBehind(warden.Dir) {
			run(t, "/proc/self/exe", warden.Arg)
		}
		if time.Now().After(deadline) {
			t.Fatalf("the machine is not as before:\n%s\n--- before:\n%s", machineState(t), was)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func lookUp(name string) (string, error) {
	out, err := exec.Command("getent", "ahostsv4", name).Output()
	first, _, _ := bytes.Cut(out, []byte(" "))
	return string(first), err
}

// startResolved makes the machine one whose names systemd-resolved looks up.
func startResolved(t *testing.T) {
	t.Helper()
	const resolved = "/lib/systemd/systemd-resolved"
	for _, program := range []string{resolved, "/usr/bin/dbus-daemon"} {
		if _, err := os.Stat(program); err != nil {
			t.Skipf("%v: install systemd-resolved and dbus (Debian's names)", err)
		}
	}
	etc := filepath.Join(t.TempDir(), "etc")
	run(t, "cp", "-a", "/etc", etc)
	for _, err := range []error{
		os.WriteFile(filepath.Join(etc, "systemd/resolved.conf"), []byte("[Resolve]\nDNS=127.0.0.1\nFallbackDNS=\nLLMNR=no\nMulticastDNS=no\nDNSSEC=no\n"), 0o644),
		os.WriteFile(filepath.Join(etc, "nsswitch.conf"), []byte("passwd: files\ngroup: files\nhosts: files dns\n"), 0o644),
		unix.Unmount("/etc/resolv.conf", 0), os.Remove(filepath.Join(etc, "resolv.conf")),
		os.Symlink("../run/systemd/resolve/stub-resolv.conf", filepath.Join(etc, "resolv.conf")),
		unix.Mount(etc, "/etc", "", unix.MS_BIND, ""),
		os.MkdirAll("/run/dbus", 0o755), os.MkdirAll("/run/systemd", 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct{ argv, appears string }{
		{"/usr/bin/dbus-daemon --system --nofork --nopidfile", "/run/dbus/system_bus_socket"},
		{resolved, "/run/systemd/resolve/stub-resolv.conf"},
	} {
		argv := strings.Fields(step.argv)
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if _, err := os.Stat(step.appears); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s did not make %s", argv[0], step.appears)
			}
		}
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		got, err := lookUp("public.example.com")
		if err == nil && got == "192.0.2.10" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("systemd-resolved does not look up: %q, %v", got, err)
		}
	}
}

// TestWholeMachineResolved: a real systemd-resolved asks us for the cluster's names, and for no others.
func TestWholeMachineResolved(t *testing.T) {
	if !onOwnMachine(t) {
		return
	}
	startResolved(t)
	was := machineState(t)
	p := play(t)
	p.until("connected")
	if said := strings.Join(p.said, "\n"); !strings.Contains(said, "systemd-resolved: it points at /run/systemd/resolve/stub-resolv.conf") {
		t.Errorf("it said %s", said)
	}
	for name, want := range map[string]string{
		"service-b": "10.96.0.7", "service-b.shop": "10.96.0.7", "db.data": "10.96.0.8", "db.data.svc.cluster.local": "10.96.0.8",
		"public.example.com": "192.0.2.10", "nowhere.example.com": "", "nowhere": "",
	} {
		if got, _ := lookUp(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	p.kill(true, true) // resolved sees the device go
	p.end()
	backAsBefore(t, was)
	if got, err := lookUp("public.example.com"); got != "192.0.2.10" {
		t.Errorf("a name outside, after all was killed: %q, %v", got, err)
	}
	p = play(t)
	p.until("connected")
	p.end()
	if last := p.said[len(p.said)-1]; last != "ended" {
		t.Errorf("it said %q", p.said)
	}
	backAsBefore(t, was)
}

func TestWholeMachine(t *testing.T) {
	if !onOwnMachine(t) {
		return
	}
	was := machineState(t)
	p := play(t)
	p.until("connected")
	for name, want := range map[string]string{
		"service-b": "10.96.0.7", "service-b.shop": "10.96.0.7", "db.data": "10.96.0.8", "db.data.svc.cluster.local": "10.96.0.8",
		"public.example.com": "192.0.2.10", "nowhere.example.com": "", "nowhere": "",
	} {
		if got, _ := lookUp(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for _, address := range []string{"10.96.0.7:80", "[fd00:10:96::7]:80"} {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); err != nil || string(got) != "this is "+address {
			t.Errorf("%q, %v", got, err)
		}
		_ = c.Close()
	}
	if _, err := net.Dial("tcp", "10.96.0.7:81"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed port: %v", err)
	}
	u, err := net.Dial("udp", "10.244.0.9:7")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(u, "hello")
	buf := make([]byte, 100)
	_ = u.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := u.Read(buf); err != nil || string(buf[:n]) != "echo hello" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	_ = u.Close()
	run(t, "ping", "-c", "1", "-W", "5", "10.244.0.9")
	if out, err := exec.Command("ping", "-c", "1", "-W", "1", "10.244.0.10").Output(); err == nil {
		t.Errorf("a ping to nobody: %s", out)
	}
	p.end()
	if last := p.said[len(p.said)-1]; last != "ended" {
		t.Errorf("it said %q", p.said)
	}
	backAsBefore(t, was)
}

// TestKilledAtEachStep kills the daemon, its warden or both after each line that the daemon says, while names outside are looked up
// all the time.
func TestKilledAtEachStep(t *testing.T) {
	if !onOwnMachine(t) {
		return
	}
	was := machineState(t)
	stop, watched := make(chan struct{}), make(chan string, 1)
	go func() { watched <- watchOutside(stop) }() // ends with stop
	killed := 0
	for _, who := range []struct {
		name         string
		daemon, root bool
	}{{"both", true, true}, {"the daemon", true, false}, {"the warden", false, true}} {
		if testing.Short() && who.name != "both" {
			continue // they take a minute; killing both is the worst
		}
		for at := 1; ; at++ {
			p := play(t)
			ended := false
			for range at {
				line, ok := p.next()
				if ended = !ok; ended {
					break
				}
				if line == "connected" {
					_ = p.stdin.Close()
				}
			}
			if ended {
				p.end()
				if at < 10 {
					t.Fatalf("only %d lines: %q", at, p.said)
				}
				backAsBefore(t, was)
				break
			}
			p.kill(who.daemon, who.root)
			p.end()
			killed++
			backAsBefore(t, was)
		}
	}
	close(stop)
	if failure := <-watched; failure != "" {
		t.Error(failure)
	}
	t.Logf("killed %d times", killed)
}

// watchOutside looks a name outside up until stop is closed, and says what failed for longer than a second.
func watchOutside(stop <-chan struct{}) string {
	n, worst := 0, time.Duration(0)
	for {
		select {
		case <-stop:
			if n == 0 {
				return "nothing was looked up"
			}
			fmt.Printf("%d lookups, the slowest took %v\n", n, worst)
			return ""
		default:
		}
		began := time.Now()
		for {
			got, err := lookUp("public.example.com")
			took := time.Since(began)
			if err == nil && got == "192.0.2.10" {
				worst = max(worst, took)
				if took > lookupTime {
					return fmt.Sprintf("a name outside took %v", took)
				}
				break
			}
			if took > lookupTime {
				return fmt.Sprintf("a name outside failed for %v: %q, %v", took, got, err)
			}
		}
		n++
	}
}

func TestConflictsOfAMachine(t *testing.T) {
	if !onOwnMachine(t) {
		return
	}
	run(t, "ip", "link", "add", "docker0", "type", "bridge")
	run(t, "ip", "addr", "add", "10.96.0.1/16", "dev", "docker0")
	run(t, "ip", "link", "set", "docker0", "up")
	was := machineState(t)
	if _, err := Prepare(t.Context(), config()); err == nil || !strings.Contains(err.Error(), "Docker, device docker0") {
		t.Errorf("the conflict: %v", err)
	}
	p := play(t, "HOST_TEST_ALLOW=yes")
	p.until("connected")
	allowed, err := net.Dial("tcp", "10.96.0.7:80")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(allowed); err != nil || string(got) != "this is 10.96.0.7:80" {
		t.Errorf("%q, %v", got, err)
	}
	_ = allowed.Close()
	p.end()
	backAsBefore(t, was)
	p = play(t, "HOST_TEST_MAP=198.19.0.0/16")
	p.until("connected")
	if got, err := lookUp("service-b"); got != "198.19.0.1" {
		t.Errorf("%q, %v", got, err)
	}
	c, err := net.Dial("tcp", "198.19.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "this is 10.96.0.7:80" {
		t.Errorf("%q, %v", got, err)
	}
	_ = c.Close()
	if _, err := net.DialTimeout("tcp", "198.19.0.77:80", 5*time.Second); err == nil {
		t.Error("an address that stands for none answers")
	}
	p.end()
	backAsBefore(t, was)
}
