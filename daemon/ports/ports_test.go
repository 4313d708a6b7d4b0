package ports

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/teleswap/teleswap/proxy/pac"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is pods on loopback, by addresses of their own, and a destination that leads to some of them.
type cluster struct {
	mu      sync.Mutex
	pods    map[string]string // address in the cluster → on loopback
	at      []string          // the destination's
	asked   int
	lasting bool
	said    []string
}

// DialContext implements Dialer.
func (c *cluster) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c.mu.Lock()
	to, there := c.pods[address]
	c.mu.Unlock()
	if !there {
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.EHOSTUNREACH}
	}
	var d net.Dialer
	return d.DialContext(ctx, network, to)
}

// Addresses implements Destination.
func (c *cluster) Addresses(context.Context) ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	if len(c.at) == 0 {
		return nil, errors.New("no pod of it is Ready")
	}
	return c.at, nil
}

func (c *cluster) Lasting() bool { return c.lasting }
func (*cluster) Port() uint16    { return 5100 }
func (*cluster) String() string  { return "service-b:5100" }

func (c *cluster) set(pods map[string]string, at ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pods, c.at = pods, at
}

func (c *cluster) lines() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.said, "\n")
}

func (c *cluster) config(patience time.Duration) Config {
	return Config{Dial: c, Patience: patience, Say: func(_ bool, line string) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.said = append(c.said, line)
	}}
}

// pod answers every line, or datagram, with its name before it. It may be ended, as by a restart.
func pod(t *testing.T, network, name string) (at string, end func()) {
	t.Helper()
	if network == "udp" {
		pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = pc.Close() })
		go func() {
			buf := make([]byte, 1<<16)
			for {
				n, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = pc.WriteTo([]byte(name+" "+string(buf[:n])), from)
			}
		}()
		return pc.LocalAddr().String(), func() { _ = pc.Close() }
	}
	lis, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				stop := context.AfterFunc(ctx, func() { _ = c.Close() })
				defer stop()
				defer func() { _ = c.Close() }()
				for lines := bufio.NewScanner(c); lines.Scan(); {
					fmt.Fprintln(c, name, lines.Text())
				}
			})
		}
	})
	end = sync.OnceFunc(func() {
		cancel()
		_ = lis.Close()
		serving.Wait()
	})
	t.Cleanup(end)
	return lis.Addr().String(), end
}

// say sends a line on a connection of its own, and returns the answer.
func say(t *testing.T, network, at, text string) (string, error) {
	t.Helper()
	c, err := net.Dial(network, at)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(c, text); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line), err
}

func open(t *testing.T, c *cluster, patience time.Duration, udp bool) string {
	t.Helper()
	f, err := Take(t.Context(), []Forward{{To: c, At: netip.MustParseAddrPort("127.0.0.1:0"), UDP: udp}})
	if err != nil {
		t.Fatal(err)
	}
	f.Serve(t.Context(), c.config(patience))
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f.All()[0].At.String()
}

func TestForwardFollowsPods(t *testing.T) {
	one, endOne := pod(t, "tcp", "one")
	two, _ := pod(t, "tcp", "two")
	c := &cluster{}
	c.set(map[string]string{"10.0.0.1:80": one}, "10.0.0.1:80")
	at := open(t, c, time.Minute, false)
	if got, err := say(t, "tcp", at, "hi"); got != "one hi" {
		t.Fatalf("answered %q, %v", got, err)
	}
	endOne()
	c.set(nil) // it restarts: nothing is Ready
	answered := make(chan string, 1)
	go func() {
		got, err := say(t, "tcp", at, "hi")
		answered <- fmt.Sprint(got, err)
	}()
	for !strings.Contains(c.lines(), "does not answer") {
		time.Sleep(time.Millisecond) // until the connection waits
	}
	select {
	case got := <-answered:
		t.Fatalf("answered %q while no pod is Ready", got)
	default:
	}
	c.set(map[string]string{"10.0.0.2:80": two}, "10.0.0.2:80")
	if got := <-answered; got != "two hi<nil>" {
		t.Errorf("the connection that waited: %q", got)
	}
	if got := c.lines(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "no pod of it is Ready") || !strings.HasSuffix(got, "service-b:5100 answers again") {
		t.Errorf("said %q", got)
	}
}

func TestForwardTriesEach(t *testing.T) {
	two, _ := pod(t, "tcp", "two")
	c := &cluster{}
	c.set(map[string]string{"10.0.0.2:80": two}, "10.0.0.1:80", "10.0.0.2:80")
	if got, err := say(t, "tcp", open(t, c, time.Minute, false), "hi"); got != "two hi" {
		t.Errorf("answered %q, %v", got, err)
	}
}

func TestForwardGivesUp(t *testing.T) {
	c := &cluster{}
	if got, err := say(t, "tcp", open(t, c, 10*time.Millisecond, false), "hi"); err == nil {
		t.Errorf("answered %q by nobody", got)
	}
}

func TestLastingAddressIsAskedOnce(t *testing.T) {
	one, _ := pod(t, "tcp", "one")
	c := &cluster{lasting: true}
	c.set(map[string]string{"10.96.0.1:80": one}, "10.96.0.1:80")
	at := open(t, c, time.Minute, false)
	for range 3 {
		if got, err := say(t, "tcp", at, "hi"); got != "one hi" {
			t.Fatalf("answered %q, %v", got, err)
		}
	}
	if c.asked != 1 {
		t.Errorf("asked %d times where it is", c.asked)
	}
	// Made anew it has another address.
	c.set(map[string]string{"10.96.0.2:80": one}, "10.96.0.2:80")
	if got, err := say(t, "tcp", at, "hi"); got != "one hi" {
		t.Errorf("answered %q, %v", got, err)
	}
}

func TestDatagramsFollowPods(t *testing.T) {
	one, endOne := pod(t, "udp", "one")
	two, _ := pod(t, "udp", "two")
	c := &cluster{}
	c.set(map[string]string{"10.0.0.1:53": one}, "10.0.0.1:53")
	conn, err := net.Dial("udp", open(t, c, time.Minute, true))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ask := func(want string) {
		t.Helper()
		buf := make([]byte, 100)
		for begun := time.Now(); time.Since(begun) < time.Minute; {
			if _, err := conn.Write([]byte("hi")); err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			if n, err := conn.Read(buf); err == nil && string(buf[:n]) == want {
				return
			}
		}
		t.Fatalf("no answer %q", want)
	}
	ask("one hi")
	c.set(map[string]string{"10.0.0.2:53": two}, "10.0.0.2:53")
	endOne()
	ask("two hi")
}

func TestTakenButNotServed(t *testing.T) {
	f, err := Take(t.Context(), []Forward{{To: &cluster{}, At: netip.MustParseAddrPort("127.0.0.1:0")}, {To: &cluster{}, At: netip.MustParseAddrPort("127.0.0.1:0"), UDP: true}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := TakeProxy(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"), false)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := errors.Join(f.Close(), p.Close()); err != nil {
			t.Error(err)
		}
	}
	if _, err := net.Dial("tcp", f.All()[0].At.String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the port is still taken: %v", err)
	}
}

func TestPortTaken(t *testing.T) {
	lis, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	at := netip.MustParseAddrPort(lis.Addr().String())
	free := netip.MustParseAddrPort("127.0.0.1:0")
	c := &cluster{}
	_, err = Take(t.Context(), []Forward{{To: c, At: free}, {To: c, At: at}})
	var taken *TakenError
	if !errors.As(err, &taken) || !strings.Contains(err.Error(), "forward service-b:5100: "+at.String()+" is taken") || !strings.Contains(err.Error(), "as in service-b:5100:") {
		t.Errorf("forward: %v", err)
	}
	if _, err := TakeProxy(t.Context(), at, false); !errors.As(err, &taken) || !strings.Contains(err.Error(), "--proxy "+at.String()) {
		t.Errorf("proxy: %v", err)
	}
}

func TestProxyIsNotOpenToOthers(t *testing.T) {
	for at, password := range map[string]bool{"0.0.0.0:0": false, "[::]:0": false, "192.0.2.1:80": false, "127.0.0.1:0": true, "[::1]:0": true} {
		err := CheckProxy(netip.MustParseAddrPort(at), false)
		if (err == nil) != password {
			t.Errorf("%s without a password: %v", at, err)
		}
		if err := CheckProxy(netip.MustParseAddrPort(at), true); err != nil {
			t.Errorf("%s with a password: %v", at, err)
		}
	}
	_, err := TakeProxy(t.Context(), netip.MustParseAddrPort("0.0.0.0:0"), false)
	var open *OpenError
	if !errors.As(err, &open) || !strings.Contains(err.Error(), "--proxy-auth FILE") {
		t.Errorf("open to all: %v", err)
	}
}

func TestProxy(t *testing.T) {
	one, _ := pod(t, "tcp", "one")
	c := &cluster{}
	c.set(map[string]string{"service-b:5100": one})
	p, err := TakeProxy(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"), true)
	if err != nil {
		t.Fatal(err)
	}
	p.Serve(t.Context(), ProxyConfig{
		Dial: c, User: "me", Password: "secret", Rules: func(context.Context) pac.Rules { return pac.Rules{Hosts: []string{"service-b"}} },
	})
	defer func() { _ = p.Close() }()
	direct := &http.Client{Transport: &http.Transport{}}
	defer direct.CloseIdleConnections()
	for path, want := range map[string]string{"/proxy.pac": `"PROXY ` + p.At().String(), "/": "settings for browsers are at /proxy.pac"} {
		resp, err := direct.Get("http://" + p.At().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || !strings.Contains(string(body), want) {
			t.Errorf("%s: %d %s, %v", path, resp.StatusCode, body, err)
		}
		if path == "/proxy.pac" && resp.Header.Get("Content-Type") != pac.ContentType {
			t.Errorf("the script is %s", resp.Header.Get("Content-Type"))
		}
	}
	for user, want := range map[*url.Userinfo]int{nil: 407, url.UserPassword("me", "secret"): 502} {
		by := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: p.At().String(), User: user})}}
		resp, err := by.Get("http://nobody.example/")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		by.CloseIdleConnections()
		if resp.StatusCode != want {
			t.Errorf("as %v: %d, want %d", user, resp.StatusCode, want)
		}
	}
}
