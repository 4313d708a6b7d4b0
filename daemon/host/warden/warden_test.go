package warden

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/dnsresolver/osdns"
)

// machine is a machine in memory. It can be killed at any of its effects, before or after it is done.
type machine struct {
	devices map[string]bool
	routes  []netip.Prefix
	files   map[string]string
	effects int
	killAt  int  // the effect at which the warden is killed; 0: none
	after   bool // it is killed after it, not before
}

type killed struct{}

// effect does one, unless the warden is killed.
func (m *machine) effect(do func()) {
	m.effects++
	if m.effects == m.killAt && !m.after {
		panic(killed{})
	}
	do()
	if m.effects == m.killAt {
		panic(killed{})
	}
}

func newMachine() *machine {
	return &machine{devices: map[string]bool{"eth0": true}, files: map[string]string{"/etc/resolv.conf": "nameserver 10.0.0.1\n"}}
}

func (m *machine) fx(t *testing.T) Effects {
	return Effects{
		MakeDevice: func(d Device) (*os.File, error) {
			m.effect(func() { m.devices[d.Name] = true })
			return os.Open(os.DevNull)
		},
		DeleteDevice: func(name string) error {
			m.effect(func() { delete(m.devices, name) })
			m.routes = nil // they go with it
			return nil
		},
		Route: func(r Routes) error {
			m.effect(func() { m.routes = append(m.routes, r.Prefixes...) })
			return nil
		},
		Listen: func(context.Context, netip.Addr) ([]*os.File, error) { return nil, nil },
		Resolver: osdns.Effects{
			Path: "/etc/resolv.conf",
			ReadFile: func(path string) ([]byte, error) {
				text, ok := m.files[path]
				if !ok {
					return nil, fs.ErrNotExist
				}
				return []byte(text), nil
			},
			WriteFile: func(path string, content []byte) error {
				m.effect(func() { m.files[path] = string(content) })
				return nil
			},
			Remove: func(path string) error { m.effect(func() { delete(m.files, path) }); return nil },
		},
	}
}

// asBefore says what is not as it was on a new machine.
func (m *machine) asBefore() string {
	was := newMachine()
	var diffs []string
	if !maps.Equal(m.devices, was.devices) {
		diffs = append(diffs, "devices differ")
	}
	if !maps.Equal(m.files, was.files) {
		diffs = append(diffs, "files differ: "+m.files["/etc/resolv.conf"])
	}
	if len(m.routes) > 0 {
		diffs = append(diffs, "routes are left")
	}
	return strings.Join(diffs, "; ")
}

// script is a daemon that says what it was told to say, then goes.
type script struct {
	orders  []Order
	answers []string
}

func (s *script) take() (Order, error) {
	if len(s.orders) == 0 {
		return Order{}, io.EOF
	}
	o := s.orders[0]
	s.orders = s.orders[1:]
	return o, nil
}

func (s *script) tell(a answer, _ ...*os.File) error {
	s.answers = append(s.answers, a.Error)
	return nil
}

func orders() []Order {
	return []Order{
		{Begin: &Begin{Session: "k3f9qz", About: "namespace shop"}},
		{Device: &Device{Name: "teleswap0", MTU: 65520, Addrs: []netip.Prefix{netip.MustParsePrefix("198.18.0.1/30")}}},
		{Routes: &Routes{Device: "teleswap0", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}}},
		{Resolver: &osdns.Change{Way: osdns.Plain, Server: netip.MustParseAddr("127.84.83.53"), Search: []string{"svc.cluster.local"}}},
	}
}

func TestItUndoesWhenTheDaemonGoes(t *testing.T) {
	for n := range len(orders()) + 1 {
		for _, end := range []bool{false, true} {
			m, dir := newMachine(), filepath.Join(t.TempDir(), "teleswap")
			s := &script{orders: orders()[:n]}
			if end {
				s.orders = append(s.orders, Order{End: &End{}})
			}
			w := &warden{dir: dir, fx: m.fx(t)}
			if err := w.serve(t.Context(), s); err != nil {
				t.Fatalf("after %d orders: %v", n, err)
			}
			if i := slices.IndexFunc(s.answers, func(a string) bool { return a != "" }); i >= 0 {
				t.Errorf("order %d: %s", i, s.answers[i])
			}
			if diff := m.asBefore(); diff != "" {
				t.Errorf("after %d orders: %s", n, diff)
			}
			if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("after %d orders the record's directory is left: %v", n, err)
			}
		}
	}
}

// TestItIsKilledAtEachStep: the next command finds the record, and puts everything back.
func TestItIsKilledAtEachStep(t *testing.T) {
	for _, after := range []bool{false, true} {
		for at := 1; ; at++ {
			m, dir := newMachine(), filepath.Join(t.TempDir(), "teleswap")
			m.killAt, m.after = at, after
			w := &warden{dir: dir, fx: m.fx(t)}
			if !dies(t, w) {
				if at < 6 {
					t.Fatalf("only %d effects", at)
				}
				break
			}
			if w.book != nil {
				_ = w.book.close() // as the kernel does for the dead
			}
			if !LeftBehind(dir) {
				t.Fatalf("killed at %d (after: %v): no record is left", at, after)
			}
			m.killAt = 0
			was, err := recoverIn(t.Context(), dir, m.fx(t))
			if err != nil || was.Session != "k3f9qz" {
				t.Fatalf("killed at %d (after: %v): %v, %+v", at, after, err, was)
			}
			if diff := m.asBefore(); diff != "" {
				t.Errorf("killed at %d (after: %v): %s", at, after, diff)
			}
			if LeftBehind(dir) {
				t.Errorf("killed at %d (after: %v): the record is left", at, after)
			}
		}
	}
}

// dies runs a connection from its begin to its end, and tells whether it was killed meanwhile.
func dies(t *testing.T, w *warden) (dead bool) {
	t.Helper()
	var lock *os.File
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(killed); !ok {
				panic(r)
			}
			if lock != nil {
				_ = lock.Close()
			}
			dead = true
		}
	}()
	for _, o := range orders() {
		files, err := w.obey(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			_ = f.Close()
		}
		lock = w.book.lock
	}
	if err := w.undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	return false
}

func TestOneAtATime(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "teleswap")
	m := newMachine()
	first, second := &warden{dir: dir, fx: m.fx(t), uid: 1000}, &warden{dir: dir, fx: m.fx(t)}
	if _, err := first.obey(t.Context(), orders()[0]); err != nil {
		t.Fatal(err)
	}
	if LeftBehind(dir) {
		t.Error("the record of a living one is taken for left behind")
	}
	_, err := second.obey(t.Context(), orders()[0])
	if err == nil || !strings.Contains(err.Error(), "namespace shop, by user 1000") {
		t.Errorf("a second one: %v", err)
	}
	if _, err := recoverIn(t.Context(), dir, m.fx(t)); err != nil || LeftBehind(dir) {
		t.Errorf("recover beside a living one: %v", err)
	}
	if err := first.undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := second.obey(t.Context(), orders()[0]); err != nil {
		t.Errorf("once the first has gone: %v", err)
	}
	if err := second.undo(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsRefused(t *testing.T) {
	prefix := netip.MustParsePrefix
	for name, o := range map[string]Order{
		"nothing":             {},
		"two things":          {Begin: &Begin{Session: "a"}, End: &End{}},
		"somebody's device":   {Device: &Device{Name: "eth0", MTU: 1500}},
		"a path as device":    {Device: &Device{Name: "../x", MTU: 1500}},
		"MTU":                 {Device: &Device{Name: "teleswap0", MTU: 10}},
		"a wide address":      {Device: &Device{Name: "teleswap0", MTU: 1500, Addrs: []netip.Prefix{prefix("10.0.0.1/8")}}},
		"all addresses":       {Listen: &Listen{netip.IPv4Unspecified()}},
		"localhost":           {Listen: &Listen{netip.MustParseAddr("127.0.0.1")}},
		"the default route":   {Routes: &Routes{Device: "teleswap0", Prefixes: []netip.Prefix{prefix("0.0.0.0/0")}}},
		"half of the world":   {Routes: &Routes{Device: "teleswap0", Prefixes: []netip.Prefix{prefix("128.0.0.0/1")}}},
		"host bits":           {Routes: &Routes{Device: "teleswap0", Prefixes: []netip.Prefix{prefix("10.0.0.1/8")}}},
		"loopback":            {Routes: &Routes{Device: "teleswap0", Prefixes: []netip.Prefix{prefix("127.0.0.0/8")}}},
		"route to another":    {Routes: &Routes{Device: "eth0", Prefixes: []netip.Prefix{prefix("10.0.0.0/8")}}},
		"resolver of another": {Resolver: &osdns.Change{Way: osdns.Resolved, Device: "eth0", Server: netip.MustParseAddr("10.0.0.1")}},
		"session":             {Begin: &Begin{Session: "../../x"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine()
			w := &warden{dir: filepath.Join(t.TempDir(), "teleswap"), fx: m.fx(t)}
			if _, err := w.obey(t.Context(), orders()[0]); err != nil {
				t.Fatal(err)
			}
			if _, err := w.obey(t.Context(), o); err == nil {
				t.Errorf("%+v was obeyed", o)
			}
			if m.effects > 0 {
				t.Errorf("%d effects", m.effects)
			}
			if err := w.undo(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
	w := &warden{dir: t.TempDir(), fx: newMachine().fx(t)}
	if _, err := w.obey(t.Context(), orders()[1]); err == nil {
		t.Error("a device without a record was made")
	}
}
