package scene

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"k8s.io/client-go/tools/clientcmd"
)

// Machine is a laptop of one world's own, which its tests may turn inside out: network, mounts and /etc are its own. It reaches the
// cluster's API server, a nameserver on loopback, a web server at a public address, and nothing else.
type Machine struct {
	Laptop
	// Name is one that the machine's nameserver knows, Address its address.
	Name, Address string

	// Kind is what it was made as.
	Kind MachineKind

	w       *World
	etc     string
	servers []*dns.Server
	closers []io.Closer
	serving sync.WaitGroup
}

// MachineKind says what a machine is like.
type MachineKind struct {
	// Resolved has systemd-resolved answer for names, over D-Bus and at 127.0.0.53; otherwise there is a plain resolv.conf.
	Resolved bool
	// Sudo lets the world's user become root without a password.
	Sudo bool
}

// nameserver is where the machine's nameserver listens.
const nameserver = "127.0.0.2"

// Root runs commands as the machine's administrator.
func Root() *User { return &User{} }

// machineScript makes /etc a copy and /var/lib, /run new; a network card that leads nowhere, and routes that say so.
const machineScript = `set -e
mount --bind "$1/etc" /etc
mount -t tmpfs -o mode=755 tmpfs /var/lib
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/dbus /run/systemd
echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
ip link set lo up
ip link add eth0 type veth peer name far0
ip link set far0 up
ip link set eth0 up
ip addr add 192.168.77.5/24 dev eth0
ip route add unreachable default
ip addr add "$2/32" dev lo
ip addr add "$3/32" dev lo
if [ "$4" = resolved ]; then
	dbus-daemon --system --nofork --nopidfile &
	bus=$!
	while [ ! -e /run/dbus/system_bus_socket ]; do kill -0 $!; done
	/lib/systemd/systemd-resolved &
	names=$!
fi
touch "$1/ready"
cat
[ -z "$bus" ] || kill $names $bus
wait`

// OwnMachine gives the world a machine of its own: all that it starts from now on runs there. It is taken down at the test's end.
func (w *World) OwnMachine(kind MachineKind) *Machine {
	w.T.Helper()
	if w.Lab.Laptop.holder == nil {
		w.T.Skip("a machine of the test's own needs the embedded cluster: unset " + KubeconfigVariable)
	}
	m := &Machine{w: w, Kind: kind, Name: outsideName, Address: outsideAddr}
	dir := filepath.Join(w.Lab.Dir, filepath.Base(w.dir)+"-machine")
	m.etc = filepath.Join(dir, "etc")
	w.must(os.MkdirAll(dir, 0o755), "make the machine's folder")
	w.must(runQuietly(exec.Command("cp", "-a", "/etc", m.etc)), "copy /etc")
	m.writeEtc(kind)
	config, err := clientcmd.LoadFromFile(w.Lab.laptopKubeconfig)
	w.must(err, "load %s", w.Lab.laptopKubeconfig)
	server, err := url.Parse(config.Clusters[config.Contexts[config.CurrentContext].Cluster].Server)
	w.must(err, "read the API server's address")
	with := ""
	if kind.Resolved {
		with = "resolved"
		m.needResolved()
	}
	m.startHolder(dir, server.Hostname(), with)
	w.machine = m
	w.T.Cleanup(m.takeDown)
	m.serve(server.Host)
	if kind.Resolved {
		m.w.Eventually("systemd-resolved", func() string {
			if out, err := m.Try("getent", "ahostsv4", m.Name); err != nil {
				return err.Error() + out
			}
			return ""
		})
	}
	return m
}

// writeEtc makes the copy of /etc what the machine is to have.
func (m *Machine) writeEtc(kind MachineKind) {
	m.w.T.Helper()
	passwd, err := os.ReadFile(filepath.Join(m.w.Lab.Dir, "passwd"))
	m.w.must(err, "read the laptop's users")
	files := map[string]string{
		"passwd": string(passwd), "resolv.conf": "# mine\nnameserver " + nameserver + "\n",
		"nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
	}
	if kind.Resolved {
		files["systemd/resolved.conf"] = "[Resolve]\nDNS=" + nameserver + "\nFallbackDNS=\nLLMNR=no\nMulticastDNS=no\nDNSSEC=no\n"
	}
	if kind.Sudo {
		files["sudoers"] = userName + " ALL=(root) NOPASSWD: ALL\n" // all worlds' users have the same name
		files["pam.d/sudo"] = "auth sufficient pam_permit.so\naccount sufficient pam_permit.so\nsession sufficient pam_permit.so\n"
	}
	for name, content := range files {
		path := filepath.Join(m.etc, name)
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			m.w.T.Fatal(err)
		}
		mode := os.FileMode(0o644)
		if name == "sudoers" {
			mode = 0o440
		}
		m.w.must(os.MkdirAll(filepath.Dir(path), 0o755), "make a folder")
		m.w.must(os.WriteFile(path, []byte(content), mode), "write %s", name)
	}
	if kind.Resolved {
		path := filepath.Join(m.etc, "resolv.conf")
		m.w.must(errors.Join(os.Remove(path), os.Symlink("../run/systemd/resolve/stub-resolv.conf", path)), "link resolv.conf")
	}
}

// startHolder starts the process whose namespaces are the machine's.
func (m *Machine) startHolder(dir, server, with string) {
	m.w.T.Helper()
	cmd := exec.Command("unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", machineScript, "sh", dir, server, m.Address, with)
	stderr := &output{}
	cmd.Stderr = stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	m.w.must(err, "make the machine")
	m.w.must(cmd.Start(), "make the machine")
	m.holder, m.hung = cmd, stdin
	m.net = netns{fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)}
	m.w.Eventually("the machine", func() string {
		if _, err := os.Stat(filepath.Join(dir, "ready")); err != nil {
			return stderr.String() + err.Error()
		}
		return ""
	})
}

// serve is the machine's world outside: the API server, a nameserver, a web server.
func (m *Machine) serve(api string) {
	m.w.T.Helper()
	relayed, err := m.net.listen(api)
	m.w.must(err, "stand for the API server")
	m.closers = append(m.closers, relayed)
	m.serving.Go(func() { m.relayLoop(relayed, api) })
	web, err := m.net.listen(net.JoinHostPort(m.Address, "80"))
	m.w.must(err, "listen outside")
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "outside")
	})}
	m.closers = append(m.closers, server)
	m.serving.Go(func() { _ = server.Serve(web) })
	packets, err := m.net.listenPacket("udp", net.JoinHostPort(nameserver, "53"))
	m.w.must(err, "listen for the machine's resolver")
	conns, err := m.net.listen(net.JoinHostPort(nameserver, "53"))
	m.w.must(err, "listen for the machine's resolver")
	answers := &Outside{Name: m.Name, Address: m.Address}
	for _, s := range []*dns.Server{{PacketConn: packets}, {Listener: conns}} {
		s.Handler = dns.HandlerFunc(answers.answer)
		m.servers = append(m.servers, s)
		m.serving.Go(func() { _ = s.ActivateAndServe() })
	}
}

// relayLoop carries connections to the API server, from the laptop's namespace. It ends with the listener.
func (m *Machine) relayLoop(lis net.Listener, api string) {
	for {
		near, err := lis.Accept()
		if err != nil {
			return
		}
		go m.relay(near, api) // ends with either end
	}
}

func (m *Machine) relay(near net.Conn, api string) {
	defer func() { _ = near.Close() }()
	var far net.Conn
	err := m.w.Lab.Laptop.net.do(func() error {
		var err error
		far, err = net.DialTimeout("tcp", api, 10*time.Second)
		return err
	})
	if err != nil {
		return
	}
	defer func() { _ = far.Close() }()
	done := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		go func() {
			_, _ = io.Copy(way[0], way[1])
			_ = way[0].(*net.TCPConn).CloseWrite()
			done <- struct{}{}
		}()
	}
	<-done
	<-done
}

// needResolved skips the test where its programs are missing.
func (m *Machine) needResolved() {
	m.w.T.Helper()
	for _, program := range []string{"/lib/systemd/systemd-resolved", "/usr/bin/dbus-daemon"} {
		if _, err := os.Stat(program); err != nil {
			m.w.T.Skipf("%v: install systemd-resolved and dbus (Debian's names; .ci/run has them)", err)
		}
	}
}

// Do runs a command on the machine as root, and returns what it printed.
func (m *Machine) Do(argv ...string) string {
	m.w.T.Helper()
	out, err := m.Try(argv...)
	if err != nil {
		m.w.T.Fatalf("%v: %v: %s", argv, err, out)
	}
	return out
}

// Try is Do for what may fail.
func (m *Machine) Try(argv ...string) (string, error) {
	cmd := m.command(root, "/", []string{"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", m.w.marker()}, argv...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// State is all of the machine that a connection may have changed, to be compared byte for byte.
func (m *Machine) State() string {
	m.w.T.Helper()
	var b strings.Builder
	file := "stat -L -c %n,%i,%a,%u,%g /etc/resolv.conf"
	if m.Kind.Resolved { // who writes it anew when he likes
		file = "readlink /etc/resolv.conf"
	}
	for _, argv := range []string{
		"cat /etc/resolv.conf", file, "ip -o link", "ip -o addr", "ip route show table all", "ip -6 route show table all",
		"ip rule", "ip -6 rule", "nft list ruleset", "find /etc /run /var/lib -ignore_readdir_race -name *teleswap*.* -o -path */teleswap/*.json",
	} {
		fmt.Fprintf(&b, "$ %s\n%s", argv, m.Do(strings.Fields(argv)...))
	}
	return b.String()
}

// takeDown ends the machine. What still runs on it is ended with the world.
func (m *Machine) takeDown() {
	var errs []error
	for _, s := range m.servers {
		errs = append(errs, s.Shutdown())
	}
	for _, c := range m.closers {
		errs = append(errs, c.Close())
	}
	errs = append(errs, m.hung.Close(), m.holder.Wait())
	m.serving.Wait()
	m.w.machine = nil
	if err := errors.Join(errs...); err != nil {
		m.w.T.Errorf("take the machine down: %v", err)
	}
}

// Lookup asks the machine's C library for a name's IPv4 address; "" if there is none.
func (m *Machine) Lookup(ctx context.Context, name string) (string, error) {
	cmd := m.command(m.w.User, "/", []string{"PATH=" + os.Getenv("PATH"), m.w.marker()}, "getent", "ahostsv4", name)
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	err := cmd.Wait()
	first, _, _ := strings.Cut(out.String(), " ")
	return first, err
}

// Dial calls f with a connection made on the machine, and closes it.
func (m *Machine) Dial(network, address string, f func(net.Conn) error) error {
	var c net.Conn
	err := m.net.do(func() error {
		var err error
		c, err = net.Dial(network, address)
		return err
	})
	if err != nil {
		return err
	}
	return errors.Join(f(c), c.Close())
}

// Wardens are the processes of root's that our command line has started on the machine.
func (m *Machine) Wardens() []Process {
	mine, err := os.Readlink(m.net.path)
	if err != nil {
		m.w.T.Errorf("look at the machine's network: %v", err)
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is right
	var found []Process
	for _, dir := range dirs {
		args, _ := os.ReadFile(filepath.Join(dir, "cmdline")) // gone by now: none
		if ns, _ := os.Readlink(filepath.Join(dir, "ns/net")); ns != mine || !strings.Contains(string(args), "__warden") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			found = append(found, Process{PID: pid, Args: strings.Split(string(args), "\x00")})
		}
	}
	return found
}

// Echo answers datagrams on the machine with what was in them, until the test's end; the address is told.
func (m *Machine) Echo() string {
	m.w.T.Helper()
	pc, err := m.net.listenPacket("udp", "127.0.0.3:0")
	m.w.must(err, "listen for datagrams")
	m.closers = append(m.closers, pc)
	m.serving.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(buf[:n], from) // who asked sees that no answer comes
		}
	})
	return pc.LocalAddr().String()
}
