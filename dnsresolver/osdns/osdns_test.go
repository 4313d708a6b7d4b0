package osdns

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// host is a machine in memory.
type host struct {
	files map[string]string
	did   []string
	fail  string // the effect that fails, by its first word
	// half makes a write stop before the file gets its length, as if the process had been killed.
	half bool
}

func (h *host) do(what string) error {
	h.did = append(h.did, what)
	if h.fail != "" && strings.HasPrefix(what, h.fail) {
		return errors.New("failed as told")
	}
	return nil
}

func (h *host) effects() Effects {
	return Effects{
		Path: "/etc/resolv.conf",
		ReadFile: func(path string) ([]byte, error) {
			text, ok := h.files[path]
			if !ok {
				return nil, fs.ErrNotExist
			}
			return []byte(text), nil
		},
		WriteFile: func(path string, content []byte) error {
			if h.half && len(h.files[path]) > len(content) {
				h.files[path] = string(content) + h.files[path][len(content):]
				return errors.New("killed")
			}
			h.files[path] = string(content)
			return h.do("write " + path)
		},
		Remove: func(path string) error { delete(h.files, path); return h.do("remove " + path) },
		Run: func(_ context.Context, stdin []byte, name string, args ...string) error {
			return h.do("run " + name + " " + strings.Join(args, " ") + " <" + string(stdin))
		},
		SetLink: func(_ context.Context, device string, server netip.Addr, search, domains []string) error {
			return h.do("link " + device + " " + server.String() + " " + strings.Join(search, ",") + " ~" + strings.Join(domains, ","))
		},
		RevertLink: func(_ context.Context, device string) error { return h.do("unlink " + device) },
		Reload:     func(context.Context) error { return h.do("reload") },
	}
}

func change(w Way) Change {
	server := netip.MustParseAddr("127.84.83.53")
	if w == Resolved {
		server = netip.MustParseAddr("198.18.0.2")
	}
	return Change{
		Way: w, Server: server, Device: "teleswap0", Search: []string{"shop.svc.cluster.local", "svc.cluster.local"}, Domains: []string{"cluster.local"},
	}
}

func TestPlainKeepsTheFormerServersBehindOurs(t *testing.T) {
	for _, tc := range []struct{ name, before, want string }{
		{
			"one server", "nameserver 10.0.0.1\n",
			headline + "nameserver 127.84.83.53\nnameserver 10.0.0.1\nsearch shop.svc.cluster.local svc.cluster.local\noptions timeout:1\n",
		},
		{
			"search and rotate", "# mine\nsearch corp.example\nnameserver 10.0.0.1\noptions rotate timeout:1\nnameserver 10.0.0.2",
			headline + "nameserver 127.84.83.53\n# mine\nsearch corp.example\nnameserver 10.0.0.1\noptions timeout:1\nnameserver 10.0.0.2\n" +
				"search shop.svc.cluster.local svc.cluster.local corp.example\noptions timeout:1\n",
		},
		{
			"rotate alone, domain", "options rotate\ndomain corp.example # x\nnameserver 10.0.0.1\n",
			headline + "nameserver 127.84.83.53\ndomain corp.example # x\nnameserver 10.0.0.1\nsearch shop.svc.cluster.local svc.cluster.local corp.example\noptions timeout:1\n",
		},
		{
			"no server at all", "",
			headline + "nameserver 127.84.83.53\nnameserver 127.0.0.1\nsearch shop.svc.cluster.local svc.cluster.local\noptions timeout:1\n",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := string(plainConf(change(Plain), []byte(tc.before))); got != tc.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, tc.want)
			}
		})
	}
}

// TestRevert: whatever was done before the end came, everything is as before.
func TestRevert(t *testing.T) {
	before := map[string]string{"/etc/resolv.conf": "search corp.example\nnameserver 10.0.0.1\n"}
	for _, way := range []Way{Plain, Resolved, Resolvconf, NetworkManager, ResolverFiles, NRPT} {
		for _, fail := range []string{"", "write", "run", "link", "reload"} {
			t.Run(string(way)+" fails "+fail, func(t *testing.T) {
				h := &host{files: map[string]string{"/etc/resolv.conf": before["/etc/resolv.conf"]}, fail: fail}
				fx := h.effects()
				c := change(way)
				u, err := Plan(fx, c)
				if err != nil || len(h.did) > 0 {
					t.Fatalf("plan: %v, did %q; want nothing done", err, h.did)
				}
				_ = Apply(t.Context(), fx, c, u)
				h.fail = ""
				for range 2 {
					if err := Revert(t.Context(), fx, u); err != nil {
						t.Fatal(err)
					}
				}
				if len(h.files) != 1 || h.files["/etc/resolv.conf"] != before["/etc/resolv.conf"] {
					t.Errorf("files after: %q, want %q", h.files, before)
				}
			})
		}
	}
}

func TestRevertAfterDeathInTheMiddleOfIt(t *testing.T) {
	h := &host{files: map[string]string{"/etc/resolv.conf": "nameserver 10.0.0.1\n"}}
	fx, c := h.effects(), change(Plain)
	u, err := Plan(fx, c)
	if err != nil {
		t.Fatal(err)
	}
	if err := Apply(t.Context(), fx, c, u); err != nil {
		t.Fatal(err)
	}
	h.half = true
	if Revert(t.Context(), fx, u) == nil || h.files["/etc/resolv.conf"] == "nameserver 10.0.0.1\n" {
		t.Fatal("the test does not stop half-way")
	}
	h.half = false
	if err := Revert(t.Context(), fx, u); err != nil || h.files["/etc/resolv.conf"] != "nameserver 10.0.0.1\n" {
		t.Errorf("%v, %q", err, h.files)
	}
}

func TestRevertLeavesWhatOthersWrote(t *testing.T) {
	for _, tc := range []struct{ name, now, want string }{
		{"all new", "nameserver 192.0.2.1\n", "nameserver 192.0.2.1\n"},
		{"added to ours", "%s# added\n", "nameserver 10.0.0.1\nsearch shop.svc.cluster.local svc.cluster.local\noptions timeout:1\n# added\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := &host{files: map[string]string{"/etc/resolv.conf": "nameserver 10.0.0.1\n"}}
			fx, c := h.effects(), change(Plain)
			u, err := Plan(fx, c)
			if err != nil {
				t.Fatal(err)
			}
			if err := Apply(t.Context(), fx, c, u); err != nil {
				t.Fatal(err)
			}
			h.files["/etc/resolv.conf"] = strings.ReplaceAll(tc.now, "%s", h.files["/etc/resolv.conf"])
			if err := Revert(t.Context(), fx, u); err != nil || h.files["/etc/resolv.conf"] != tc.want {
				t.Errorf("%v; got %q, want %q", err, h.files["/etc/resolv.conf"], tc.want)
			}
		})
	}
}

func TestAFileThatWasNotThereGoes(t *testing.T) {
	h := &host{files: map[string]string{}}
	fx, c := h.effects(), change(Plain)
	u, err := Plan(fx, c)
	if err != nil {
		t.Fatal(err)
	}
	if err := Apply(t.Context(), fx, c, u); err != nil {
		t.Fatal(err)
	}
	if err := Revert(t.Context(), fx, u); err != nil || len(h.files) != 0 {
		t.Errorf("%v, left %q", err, h.files)
	}
}

func TestWhatIsDone(t *testing.T) {
	for _, tc := range []struct {
		way  Way
		want []string
	}{
		{Resolved, []string{"link teleswap0 198.18.0.2 shop.svc.cluster.local,svc.cluster.local ~cluster.local"}},
		{Resolvconf, []string{"run resolvconf -a tun-teleswap0.inet <nameserver ::ffff:127.84.83.53\nsearch shop.svc.cluster.local svc.cluster.local\noptions timeout:1\n"}},
		{NetworkManager, []string{"write " + networkManagerFile, "reload"}},
		{ResolverFiles, []string{
			"write /etc/resolver/cluster.local", "write /etc/resolver/shop.svc.cluster.local",
			"write /etc/resolver/svc.cluster.local", "write /etc/resolver/teleswap.search",
		}},
	} {
		t.Run(string(tc.way), func(t *testing.T) {
			h := &host{files: map[string]string{"/etc/resolv.conf": "nameserver 10.0.0.1\n"}}
			fx, c := h.effects(), change(tc.way)
			u, err := Plan(fx, c)
			if err != nil {
				t.Fatal(err)
			}
			if err := Apply(t.Context(), fx, c, u); err != nil || !slices.Equal(h.did, tc.want) {
				t.Errorf("%v; did %q, want %q", err, h.did, tc.want)
			}
		})
	}
}

func TestNetworkManagerKeepsTheFormerServers(t *testing.T) {
	got := string(networkManagerConf(change(NetworkManager), []netip.Addr{netip.MustParseAddr("10.0.0.1")}))
	if !strings.Contains(got, "servers=127.84.83.53,10.0.0.1\n") || !strings.Contains(got, "searches=shop.svc.cluster.local,svc.cluster.local\n") {
		t.Errorf("got:\n%s", got)
	}
}

func TestRootIsNotMadeToWriteAnything(t *testing.T) {
	for name, spoil := range map[string]func(*Change){
		"no such way":         func(c *Change) { c.Way = "hosts" },
		"server not local":    func(c *Change) { c.Server = netip.MustParseAddr("192.0.2.1") },
		"no server":           func(c *Change) { c.Server = netip.Addr{} },
		"newline in search":   func(c *Change) { c.Search = []string{"a\nnameserver 192.0.2.1"} },
		"space in search":     func(c *Change) { c.Search = []string{"a b"} },
		"path as domain":      func(c *Change) { c.Domains = []string{"../passwd"} },
		"quote in domain":     func(c *Change) { c.Domains = []string{"a'; rm"} },
		"root domain":         func(c *Change) { c.Domains = []string{"."} },
		"too many":            func(c *Change) { c.Domains = make([]string, maxDomains+1) },
		"device":              func(c *Change) { c.Device = "../../x" },
		"device that is long": func(c *Change) { c.Device = "teleswap00000000" },
	} {
		t.Run(name, func(t *testing.T) {
			c := change(Plain)
			spoil(&c)
			if _, err := Plan((&host{files: map[string]string{}}).effects(), c); err == nil {
				t.Errorf("%+v was taken", c)
			}
		})
	}
}

func TestWriteFileKeepsTheFile(t *testing.T) {
	dir := t.TempDir()
	path, other := filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "other")
	if err := errors.Join(os.WriteFile(path, []byte("nameserver 10.0.0.1\nnameserver 10.0.0.2\n"), 0o640), os.Link(path, other)); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(path, []byte("short\n")); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(other)
	info, serr := os.Stat(path)
	if err != nil || serr != nil || string(got) != "short\n" || info.Mode().Perm() != 0o640 {
		t.Errorf("%q, %v, %v, %v", got, info.Mode(), err, serr)
	}
}
