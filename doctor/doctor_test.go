package doctor

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/daemon/ledger"
	"github.com/teleswap/teleswap/daemon/sandbox"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == sandbox.MapArg {
		os.Exit(sandbox.WaitMapped()) // the program that tries namespaces is this one
	}
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"))
}

// config is that of a machine on which nothing of ours has ever run.
func config(t *testing.T, conn kube.Connection) Config {
	t.Helper()
	dir := t.TempDir()
	return Config{
		Connection: conn, Version: "test", Build: "b", Image: "agent:test", Paths: api.PathsIn(filepath.Join(dir, "rt")),
		StateDir: filepath.Join(dir, "state"), User: "jane", Host: "laptop",
	}
}

// examine runs the checks and returns what each of them said.
func examine(t *testing.T, cfg Config) (Report, func(check string) []Finding) {
	t.Helper()
	var told []Finding
	e := Run(t.Context(), cfg, func(f Finding) { told = append(told, f) })
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	r := e.Report()
	if !slices.Equal(told, r.Findings) {
		t.Errorf("told %v, reported %v", told, r.Findings)
	}
	return r, func(check string) []Finding {
		t.Helper()
		var found []Finding
		for _, f := range r.Findings {
			if f.Check == check {
				found = append(found, f)
			}
		}
		if len(found) == 0 {
			t.Fatalf("nothing was found by %q in %v", check, r.Findings)
		}
		return found
	}
}

// server is an API server that allows all or nothing, whose Deployment web bears a mark, if one is given.
func server(t *testing.T, allows bool, mark string) kube.Connection {
	t.Helper()
	answer := func(rw http.ResponseWriter, v any) {
		rw.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(rw).Encode(v); err != nil {
			t.Error(err)
		}
	}
	type object = map[string]any
	s := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		switch path := req.URL.Path; {
		case path == "/version":
			answer(rw, object{"gitVersion": "v9.9.9"})
		case strings.HasSuffix(path, "/selfsubjectaccessreviews"):
			answer(rw, object{"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "status": object{"allowed": allows}})
		case strings.HasSuffix(path, "/selfsubjectreviews"):
			answer(rw, object{"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1", "status": object{"userInfo": object{"username": "jane@corp"}}})
		case strings.HasSuffix(path, "/namespaces/shop"):
			answer(rw, object{"kind": "Namespace", "apiVersion": "v1", "metadata": object{"name": "shop"}})
		case strings.HasSuffix(path, "/services") && req.Method == http.MethodPost:
			rw.Header().Set("Content-Type", "application/json")
			rw.WriteHeader(http.StatusUnprocessableEntity)
			answer(rw, object{
				"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Invalid", "code": 422,
				"message": "failed to allocate IP: the provided IP is not in the valid range. The range of valid IPs is 10.96.0.0/12",
			})
		case strings.HasSuffix(path, "/deployments") && mark != "":
			answer(rw, object{"kind": "DeploymentList", "apiVersion": "apps/v1", "items": []object{{
				"metadata": object{"name": "web", "namespace": "shop", "annotations": object{kube.MarkAnnotation: mark}},
			}}})
		default:
			answer(rw, object{"kind": "List", "apiVersion": "v1", "items": []object{}})
		}
	}))
	t.Cleanup(s.Close)
	return kube.Connection{Server: s.URL, InsecureSkipTLSVerify: true, Token: "t", Namespace: "shop"}
}

func TestWithoutCluster(t *testing.T) {
	r, found := examine(t, config(t, kube.Connection{Kubeconfig: filepath.Join(t.TempDir(), "none")}))
	if r.OK {
		t.Error("all is well without a cluster")
	}
	if f := found("kubeconfig")[0]; f.State != Not || !strings.Contains(f.Says, "does not exist") || !strings.Contains(f.Do, "--kubeconfig") {
		t.Errorf("kubeconfig: %+v", f)
	}
	for _, check := range []string{"API server", "permissions", "routes"} {
		if f := found(check)[0]; f.State != Note {
			t.Errorf("%s: %+v", check, f)
		}
	}
	for _, check := range []string{"daemon", "leftovers"} {
		if f := found(check)[0]; f.State != OK {
			t.Errorf("%s: %+v", check, f)
		}
	}
}

func TestServerAway(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := lis.Close(); err != nil {
		t.Fatal(err)
	}
	_, found := examine(t, config(t, kube.Connection{Server: "https://" + lis.Addr().String()}))
	if f := found("API server")[0]; f.State != Not || !strings.Contains(f.Says, "connection refused") || !strings.Contains(f.Do, "kubectl cluster-info") {
		t.Errorf("%+v", f)
	}
}

func TestGoodCluster(t *testing.T) {
	_, found := examine(t, config(t, server(t, true, "")))
	for check, says := range map[string]string{
		"kubeconfig": "namespace shop", "API server": "v9.9.9", "permissions": "user jane@corp may, in namespace shop: swap a Deployment, ",
		"leftovers": "none", "routes": "10.96.0.0/12",
	} {
		if f := found(check)[0]; f.State != OK || !strings.Contains(f.Says, says) {
			t.Errorf("%s: %+v, want %q", check, f, says)
		}
	}
}

func TestWithoutRights(t *testing.T) {
	r, found := examine(t, config(t, server(t, false, "")))
	f := found("permissions")[0]
	if r.OK || f.State != Not || !strings.Contains(f.Says, "jane@corp") || !strings.Contains(f.Says, "patch deployments.apps") {
		t.Errorf("%+v", f)
	}
	if !strings.Contains(f.Do, "--clusterrole=edit --user='jane@corp' --namespace=shop") {
		t.Errorf("what to do: %s", f.Do)
	}
}

func TestMarks(t *testing.T) {
	for _, c := range []struct {
		name, who string
		want      State
	}{
		{"mine", "jane", Not}, {"somebody else's", "bob", Note},
	} {
		t.Run(c.name, func(t *testing.T) {
			mark := fmt.Sprintf(`{"id":"abc123","user":%q,"host":"laptop","since":"2026-01-02T03:04:05Z","replicas":1,"agent":"web-teleswap-abc123"}`, c.who)
			_, found := examine(t, config(t, server(t, true, mark)))
			f := found("leftovers")[0]
			if f.State != c.want || !strings.Contains(f.Says, "abc123 of "+c.who+"@laptop") || !strings.Contains(f.Do, "teleswap restore deployment/web --namespace shop") {
				t.Errorf("%+v", f)
			}
		})
	}
}

func TestLeftoverRecord(t *testing.T) {
	cfg := config(t, kube.Connection{})
	book, err := ledger.Open(filepath.Join(cfg.StateDir, "sessions"))
	if err != nil {
		t.Fatal(err)
	}
	entry, err := book.Begin(ledger.Record{Session: "abc123", Target: "deployment/web", Namespace: "shop", Created: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if err := entry.Release(); err != nil {
		t.Fatal(err)
	}
	_, found := examine(t, cfg)
	if f := found("leftovers")[0]; f.State != Not || !strings.Contains(f.Says, "deployment/web in namespace shop") {
		t.Errorf("%+v", f)
	}
	if err := os.WriteFile(filepath.Join(cfg.StateDir, "sessions", "broken.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, found = examine(t, cfg)
	if f := found("leftovers")[0]; f.State != Not || !strings.Contains(f.Says, "broken") {
		t.Errorf("%+v", f)
	}
}

func TestLeftoverNetwork(t *testing.T) {
	cfg := config(t, kube.Connection{})
	cfg.HostDir = t.TempDir()
	_, found := examine(t, cfg)
	if f := found("leftovers")[0]; f.State != OK {
		t.Errorf("without a record: %+v", f)
	}
	if err := os.WriteFile(filepath.Join(cfg.HostDir, "host.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, found = examine(t, cfg)
	if f := found("leftovers")[0]; f.State != Not || !strings.Contains(f.Says, cfg.HostDir) || !strings.Contains(f.Do, "sudo teleswap") {
		t.Errorf("%+v", f)
	}
}

func TestDaemonThatIsNoDaemon(t *testing.T) {
	cfg := config(t, kube.Connection{})
	if err := os.WriteFile(cfg.Paths.Dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, found := examine(t, cfg)
	if f := found("daemon")[0]; f.State != Not || !strings.Contains(f.Says, "is not a directory") || !strings.Contains(f.Do, "TELESWAP_RUNTIME_DIR") {
		t.Errorf("%+v", f)
	}
}

func TestNameservers(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		if err := w.WriteMsg(new(dns.Msg).SetRcode(m, dns.RcodeRefused)); err != nil {
			t.Error(err)
		}
	})}
	served := make(chan error, 1)
	go func() { served <- s.ActivateAndServe() }()
	if _, err := askRoot(t.Context(), conn.LocalAddr().String()); err != nil {
		t.Errorf("a nameserver that answers: %v", err)
	}
	if err := s.Shutdown(); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, err := askRoot(t.Context(), conn.LocalAddr().String()); err == nil {
		t.Error("a nameserver that is gone answers")
	}
	cfg := config(t, kube.Connection{})
	cfg.ResolvConf = filepath.Join(t.TempDir(), "resolv.conf")
	_, found := examine(t, cfg)
	if f := found("resolver")[0]; f.State != Not {
		t.Errorf("without the file: %+v", f)
	}
	if err := os.WriteFile(cfg.ResolvConf, []byte("nameserver 127.255.255.254\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, found = examine(t, cfg)
	if f := found("resolver")[0]; f.State != Not || !strings.Contains(f.Says, "127.255.255.254 does not answer") {
		t.Errorf("a dead nameserver: %+v", f)
	}
}

func TestOwnerOf(t *testing.T) {
	for _, c := range []struct{ real, text, want string }{
		{"/run/systemd/resolve/stub-resolv.conf", "nameserver 127.0.0.53\n", "systemd-resolved"},
		{"/etc/resolv.conf", "# This file is managed by man:systemd-resolved(8). Do not edit.\n", "systemd-resolved"},
		{"/run/NetworkManager/resolv.conf", "", "NetworkManager"},
		{"/etc/resolv.conf", "# Generated by NetworkManager\n", "NetworkManager"},
		{"/run/resolvconf/resolv.conf", "", "resolvconf"},
		{"/etc/resolv.conf", "# This file was automatically generated by WSL.\n", "WSL"},
		{"/etc/resolv.conf", "# Generated by Docker Engine.\n", "Docker"},
		{"/etc/resolv.conf", "nameserver 192.0.2.1\nsearch docker.example\n", "a plain file"},
	} {
		if got := ownerOf(c.real, c.text); got != c.want {
			t.Errorf("%s, %q: %s, want %s", c.real, c.text, got, c.want)
		}
	}
}

func TestConflicts(t *testing.T) {
	p := netip.MustParsePrefix
	cluster := []netip.Prefix{p("10.96.0.0/12"), p("fd00:10::/108")}
	for _, c := range []struct {
		name string
		to   netip.Prefix
		want bool
	}{
		{"a VPN's wide one", p("10.0.0.0/8"), true},
		{"a bridge inside", p("10.100.3.0/24"), true},
		{"the same", p("10.96.0.0/12"), true},
		{"beside", p("10.112.0.0/12"), false},
		{"another family", p("fd00:10::/64"), true},
		{"a default route", p("0.0.0.0/0"), false},
		{"elsewhere", p("192.168.1.0/24"), false},
	} {
		found := conflicts(cluster, nil, []Route{{To: c.to, Device: "tun9", Via: netip.MustParseAddr("192.0.2.1")}})
		if got := len(found) > 0; got != c.want {
			t.Errorf("%s: %v", c.name, found)
		}
		if c.want && !strings.Contains(strings.Join(found, ""), c.to.String()+" via 192.0.2.1 dev tun9") {
			t.Errorf("%s: %v does not name the route", c.name, found)
		}
	}
	pods := []netip.Prefix{p("10.244.0.0/16")}
	for to, want := range map[string]bool{"10.0.0.0/8": true, "10.244.0.0/16": false, "10.244.3.0/24": false, "10.245.0.0/16": false} {
		if found := conflicts(nil, pods, []Route{{To: p(to), Device: "tun9"}}); (len(found) > 0) != want {
			t.Errorf("a route to %s and pods: %v", to, found)
		}
	}
	routes, err := machineRoutes()
	if err != nil && !errors.Is(err, errNoRoutes) {
		t.Error(err)
	}
	for _, r := range routes {
		if r.To.Bits() == 0 || r.Device == "" {
			t.Errorf("route %+v", r)
		}
	}
}

func TestFailed(t *testing.T) {
	for text, want := range map[string]Finding{
		"a":               {Check: "x", State: Not, Says: "a"},
		"a\ndo b":         {Check: "x", State: Not, Says: "a", Do: "do b"},
		"a:\n  b\n c\ndo": {Check: "x", State: Not, Says: "a:; b; c", Do: "do"},
	} {
		if got := Failed("x", errors.New(text)); got != want {
			t.Errorf("%q: %+v", text, got)
		}
	}
}
