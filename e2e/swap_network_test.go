package e2e

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

// TestSwapProcessReachesCluster has the process on the laptop call whatever its pod could call, by one swap.
func TestSwapProcessReachesCluster(t *testing.T) {
	w := newWorld(t)
	w.Apply(webScene)
	w.Apply(backendScene)
	c := w.NewClient()
	w.WaitAvailable()
	w.Freeze()
	backendIP := w.PodIP("app=service-b")
	_, far := swapWeb(w, c)
	agent := w.PodIP(scene.SessionLabel)

	get := func(address string) func(*testing.T) {
		return func(t *testing.T) {
			o := far.Do("get", "url", address)
			if !o.OK || !strings.Contains(o.Body, `"name":"backend"`) {
				t.Fatalf("get %s: %+v, want the backend's answer", address, o)
			}
			// Whom the cluster sees is the pod, not a tunnel's end somewhere.
			if !strings.Contains(o.Body, `"peer":"`+agent+":") {
				t.Errorf("the backend was called by another than the agent's pod, %s: %s", agent, o.Body)
			}
		}
	}
	t.Run("service by its short name", get("http://service-b:5100/self"))
	t.Run("service with namespace", get("http://service-b."+w.Namespace+":5100/self"))
	t.Run("service by its full name", get("http://service-b."+w.Namespace+".svc.cluster.local:5100/self"))
	t.Run("service by its absolute name", get("http://service-b."+w.Namespace+".svc.cluster.local.:5100/self"))
	t.Run("pod by its address", get("http://"+backendIP+":5100/self"))

	t.Run("the kubernetes Service", func(t *testing.T) {
		for _, addr := range []string{"kubernetes.default:443", "kubernetes.default.svc.cluster.local:443"} {
			if o := far.Do("tls", "addr", addr); !o.OK || !slices.Contains(o.Addresses, "kubernetes.default") {
				t.Errorf("handshake with %s: %+v, want the API server's certificate", addr, o)
			}
		}
	})
	t.Run("a closed port is refused at once", func(t *testing.T) {
		// The same question from inside the cluster says what the truth is.
		for _, addr := range []string{backendIP + ":1", c.IP + ":1"} {
			want := c.Do("dial", url.Values{"addr": {addr}, "timeout": {"10s"}})
			got := far.Do("dial", "addr", addr, "timeout", "10s")
			if want.Errno != "ECONNREFUSED" || got.Errno != want.Errno {
				t.Errorf("dial %s: %+v, want %q as in the cluster", addr, got, want.Errno)
			}
		}
	})
	t.Run("a name that does not exist", func(t *testing.T) {
		for _, name := range []string{"no-such-service", "no-such-service.svc.cluster.local", "no.such.example.com", "no.such.example.com."} {
			if o := far.Do("lookup", "name", name); o.OK || !o.NotFound {
				t.Errorf("look up %s: %+v, want that it does not exist", name, o)
			}
		}
	})
	t.Run("names resolve as in the pod", func(t *testing.T) {
		for _, name := range []string{"service-b", "service-b." + w.Namespace, "kubernetes.default", "web", "localhost"} {
			want := c.Do("lookup", url.Values{"name": {name}})
			got := far.Do("lookup", "name", name)
			slices.Sort(want.Addresses)
			slices.Sort(got.Addresses)
			if !want.OK || !slices.Equal(got.Addresses, want.Addresses) {
				t.Errorf("look up %s: %v, in the pod %v", name, got, want)
			}
		}
	})
	t.Run("one's own pod by its Service", func(t *testing.T) {
		if o := far.Do("get", "url", "http://web/self"); !o.OK || !strings.Contains(o.Body, `"name":"local"`) {
			t.Errorf("get http://web/self: %+v, want one's own answer", o)
		}
	})
	t.Run("one's own port by loopback", func(t *testing.T) {
		if o := far.Do("get", "url", "http://127.0.0.1:8080/self"); !o.OK || !strings.Contains(o.Body, `"name":"local"`) {
			t.Errorf("get http://127.0.0.1:8080/self: %+v, want one's own answer", o)
		}
	})
}

// TestSwapPublicNameGoesByLaptop asks for a name that only the laptop's resolver knows, on a
// network that only the laptop reaches.
func TestSwapPublicNameGoesByLaptop(t *testing.T) {
	w, c := webWorld(t)
	outside := w.Lab.Laptop.Outside
	if outside == nil {
		t.Skip("needs a laptop with a network of its own: run on the embedded cluster")
	}
	_, far := swapWeb(w, c)
	if o := far.Do("lookup", "name", outside.Name); !slices.Equal(o.Addresses, []string{outside.Address}) {
		t.Errorf("look up %s: %+v, want %s", outside.Name, o, outside.Address)
	}
	for _, address := range []string{"http://" + outside.Name, "http://" + outside.Address} {
		o := far.Do("get", "url", address)
		if host, _, _ := strings.Cut(o.Body, ":"); !o.OK || host != outside.Laptop {
			t.Errorf("get %s: %+v, want that the server sees the laptop, %s", address, o, outside.Laptop)
		}
	}
	// The errors of that way are true as well.
	if o := far.Do("dial", "addr", outside.Address+":1", "timeout", "10s"); o.Errno != "ECONNREFUSED" {
		t.Errorf("dial a closed port outside: %+v, want that it is refused", o)
	}
}

// TestSwapProcessSeesItsClients asks by way of the Service, and of the pod itself.
func TestSwapProcessSeesItsClients(t *testing.T) {
	w, c := webWorld(t)
	_, far := swapWeb(w, c)
	for _, base := range []string{"http://web", "http://" + w.PodIP(scene.SessionLabel) + ":8080"} {
		if peer := c.Far(base).Self().Peer; !strings.HasPrefix(peer, c.IP+":") {
			t.Errorf("asked at %s the process sees %s, want the client pod's address %s", base, peer, c.IP)
		}
	}
	if got := far.Self().Listening; !strings.HasSuffix(got, ":8080") {
		t.Errorf("answered at %s, want at port 8080", got)
	}
}

// TestSwapReachesLoopbackListener swaps by a process that listens on 127.0.0.1 only, as many
// frameworks' development servers do.
func TestSwapReachesLoopbackListener(t *testing.T) {
	w, c := webWorld(t)
	run := w.Teleswap("swap", "web", "--", w.Lab.Bin.Probe, "-listen", "127.0.0.1:8080", "-name", "local")
	run.WaitSwapped()
	c.Far("http://web").WaitLocal("local")
}

// TestSwapCarriesBytesWhole moves some MiB both ways, in both directions, and compares sums.
func TestSwapCarriesBytesWhole(t *testing.T) {
	w := newWorld(t)
	w.Apply(webScene)
	w.Apply(backendScene)
	c := w.NewClient()
	w.WaitAvailable()
	w.Freeze()
	_, far := swapWeb(w, c)
	const n = "16777259" // a prime, so that no buffer fits
	sum := c.Do("get", url.Values{"url": {"http://service-b:5100/bytes?n=" + n}, "sum": {"1"}}).Body
	if !strings.HasPrefix(sum, n+" ") {
		t.Fatalf("sum inside the cluster is %q: the test is wrong", sum)
	}
	for name, got := range map[string]string{
		"inbound, from the process":  c.Do("get", url.Values{"url": {"http://web/bytes?n=" + n}, "sum": {"1"}}).Body,
		"inbound, to the process":    c.Do("post", url.Values{"url": {"http://web/sum"}, "n": {n}}).Body,
		"outbound, to the process":   far.Do("get", "url", "http://service-b:5100/bytes?n="+n, "sum", "1").Body,
		"outbound, from the process": far.Do("post", "url", "http://service-b:5100/sum", "n", n).Body,
	} {
		if got != sum {
			t.Errorf("%s: %q, want %q", name, got, sum)
		}
	}
}

// TestSwapTakesReusedClientPort calls again and again from one port: the one who closed first, the
// server, still remembers the last call, and must take the next one nevertheless.
func TestSwapTakesReusedClientPort(t *testing.T) {
	w, c := webWorld(t)
	swapWeb(w, c)
	addr := w.PodIP(scene.SessionLabel) + ":8080"
	if o := c.Do("reuse", url.Values{"addr": {addr}, "from": {"45001"}, "times": {"20"}}); !o.OK {
		t.Errorf("call %s twenty times from one port: %+v", addr, o)
	}
}
