package session

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/proxy/procnet"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

// sleeper is a process of the test's that listens on the socket that it inherits: a shell is between, as sandbox's first
// process is.
func sleeper(t *testing.T, lis net.Listener) (pid int) {
	t.Helper()
	f, err := lis.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	cmd := exec.Command("sh", "-c", "sleep 1000 & echo $!; wait")
	cmd.ExtraFiles = []*os.File{f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(line, &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestPlainCountsTheProcessAlone(t *testing.T) {
	own, ownPort := listenOn(t, "127.0.0.1")
	pid := sleeper(t, own)
	if err := own.Close(); err != nil { // it is the process's alone
		t.Fatal(err)
	}
	_, othersPort := listenOn(t, "127.0.0.1")
	p := &plain{laptop: onLaptop(nil), pid: func() int { return pid }}
	have, err := listensOn(p, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := []port{{number: int32(ownPort)}}; !slices.Equal(have, want) {
		t.Errorf("the process listens on %v, want %v", have, want)
	}
	both := []port{{number: int32(ownPort)}, {number: int32(othersPort)}}
	var taken *PortTakenError
	if err := p.taken(both); !errors.As(err, &taken) || taken.Port != fmt.Sprint(othersPort) || !strings.Contains(taken.Holder, fmt.Sprintf("(pid %d)", os.Getpid())) {
		t.Errorf("taken: %v, want %d, by us", err, othersPort)
	}
	if err := p.taken(both[:1]); err != nil {
		t.Errorf("its own port counts as taken: %v", err)
	}
}

func TestPlainRefusesATakenPort(t *testing.T) {
	lis, taken := listenOn(t, "127.0.0.1")
	s := &Session{}
	target := func(p uint16) *kube.Target { return &kube.Target{Need: []int32{int32(p)}} }
	err := s.checkPorts(target(taken))
	var refused *PortTakenError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", os.Getpid())) || !strings.Contains(err.Error(), "--expose OTHER:") {
		t.Errorf("got %v", err)
	}
	if err := lis.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.checkPorts(target(taken)); err != nil {
		t.Errorf("a free port: %v", err)
	}
}

func TestPlainCountsAllWhereItIsNotTold(t *testing.T) {
	p := &plain{laptop: laptop{table: func() ([]procnet.Socket, error) { return nil, errors.New("no table") }}}
	if _, err := p.Listening(); err == nil {
		t.Error("a table that cannot be read is no error")
	}
}

// TestOutletLeadsIntoThePod: what a process asks the proxy for, by the names of the pod's hosts file, is dialled by the agent.
func TestOutletLeadsIntoThePod(t *testing.T) {
	echo, _ := echoes(t)
	a := newAgentLab(t, func(cfg *tunnel.ServerConfig) {
		cfg.Dial = func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
			if to.Port() != 80 {
				return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
			}
			var d net.Dialer
			return d.DialContext(ctx, network, echo.String())
		}
	})
	link, _ := a.dial()
	proxy, err := link.AttachLaptop(onLaptop(nil), &tunnel.PodView{
		PodIps: []string{"10.244.0.9"}, ResolvConf: []byte("nameserver 10.96.0.10\n"), Hosts: []byte("10.96.0.7 greeter Greeter.Shop # ours\nnonsense\n"),
	})
	if err != nil {
		t.Fatal(err)
	}
	user, at, _ := strings.Cut(proxy, "@")
	if user == "" || !strings.HasPrefix(at, "127.0.0.1:") {
		t.Fatalf("the proxy is %q", proxy)
	}
	ask := func(address, user string) (int, net.Conn, *bufio.Reader) {
		t.Helper()
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\nProxy-Authorization: Basic %s\r\n\r\n",
			address, address, base64.StdEncoding.EncodeToString([]byte(user)))
		r := bufio.NewReader(c)
		resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, c, r
	}
	for _, address := range []string{"greeter:80", "GREETER.shop:80", "10.96.0.7:80"} {
		status, c, r := ask(address, user)
		if status != http.StatusOK {
			t.Errorf("%s: status %d", address, status)
			continue
		}
		if _, err := io.WriteString(c, "hello\n"); err != nil {
			t.Fatal(err)
		}
		if line, err := r.ReadString('\n'); err != nil || line != "hello\n" {
			t.Errorf("%s: read %q, %v", address, line, err)
		}
		_ = c.Close() // the echo serves one after the other
	}
	if status, _, _ := ask("greeter:80", outletUser+":guess"); status != http.StatusProxyAuthRequired {
		t.Errorf("another's password: status %d", status)
	}
	if status, _, _ := ask("greeter:81", user); status != http.StatusBadGateway {
		t.Errorf("a refused port: status %d", status)
	}
}
