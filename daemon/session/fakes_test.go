package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/daemon/ledger"
	"github.com/teleswap/teleswap/proxy/procnet"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

// errKilled is what a process that was killed sees: nothing it does has an effect.
var errKilled = errors.New("killed")

// gate counts the points at which a process may die: before and after each effect on
// the ledger and the cluster. From the point `at` on nothing has an effect any more.
type gate struct {
	mu   sync.Mutex
	at   int // 0: never
	seen int
	dead chan struct{} // closed at the kill
	// late: what a cluster is asked for at the kill it does all the same, when settleTime is nearly over.
	late bool
}

func newGate(at int) *gate { return &gate{at: at, dead: make(chan struct{})} }

func (g *gate) pass() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seen++
	if g.at > 0 && g.seen >= g.at {
		if g.seen == g.at {
			close(g.dead)
		}
		return errKilled
	}
	return nil
}

func (g *gate) died() bool {
	select {
	case <-g.dead:
		return true
	default:
		return false
	}
}

// do is one effect between two points.
func (g *gate) do(effect func() error) error {
	if err := g.pass(); err != nil {
		return err
	}
	err := effect()
	return errors.Join(err, g.pass())
}

// world is what a cluster holds: it outlives processes.
type world struct {
	mu       sync.Mutex
	replicas int32
	marks    map[string]string // session by target
	agents   map[string]bool
	secrets  map[string]bool
	log      []string
	// scaleFirst is what the marks say.
	scaleFirst bool
	isNew      bool // likewise
	restoring  bool // the marks are those that an undo has written
}

func newWorld() *world {
	return &world{replicas: 2, marks: map[string]string{}, agents: map[string]bool{}, secrets: map[string]bool{}}
}

func (w *world) note(format string, args ...any) { w.log = append(w.log, fmt.Sprintf(format, args...)) }

// untouched fails the test unless the world is as newWorld made it.
func (w *world) untouched(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.replicas != 2 || len(w.marks) != 0 || len(w.agents) != 0 || len(w.secrets) != 0 {
		t.Errorf("left behind: replicas %d, marks %v, agents %v, secrets %v; history %q",
			w.replicas, w.marks, w.agents, w.secrets, w.log)
	}
}

// fakeCluster is one process's connection to a world.
type fakeCluster struct {
	*world
	gate *gate
	// fail makes methods fail by name.
	fail map[string]func() error
	// datagrams are the UDP ports of every target.
	datagrams []int32
}

func (c *fakeCluster) err(method string) error {
	if f := c.fail[method]; f != nil {
		return f()
	}
	return nil
}

func (c *fakeCluster) change(what string, do func()) error {
	if err := c.err(what); err != nil {
		return err
	}
	effect := func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		do()
		c.note("%s", what)
		return nil
	}
	before := c.gate.died()
	err := c.gate.do(effect)
	if c.gate.late && !before && errors.Is(err, errKilled) {
		time.AfterFunc(settleTime-time.Millisecond, func() { _ = effect() })
	}
	return err
}

func (c *fakeCluster) Namespace() string { return "default" }
func (c *fakeCluster) Context() string   { return "test" }
func (c *fakeCluster) Server() string    { return "https://test" }
func (c *fakeCluster) Close() error      { return nil }

func (c *fakeCluster) Resolve(_ context.Context, ref kube.Ref) (*kube.Target, error) {
	if err := c.err("Resolve"); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if id := c.marks[ref.Name]; id != "" {
		return nil, &kube.AlreadySwappedError{Namespace: "default", Target: "deployment/" + ref.Name, Mark: kube.Mark{ID: id}}
	}
	return &kube.Target{
		Namespace: "default", Name: ref.Name, Container: "app", Replicas: c.replicas,
		Listen: []int32{8080}, Need: []int32{8080}, NeedUDP: c.datagrams, TunnelPort: 15100, Kind: kube.Deployment, Available: c.replicas,
		ScaleFirst: ref.ScaleFirst, New: ref.New,
	}, nil
}

func (c *fakeCluster) CheckAccess(context.Context, string) error { return c.err("CheckAccess") }

func (c *fakeCluster) ServiceCIDRs(context.Context) ([]netip.Prefix, error) {
	return []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}, nil
}

func (c *fakeCluster) Namespaces(context.Context) ([]string, error) {
	return nil, errors.ErrUnsupported
}

func (c *fakeCluster) Targets(context.Context) ([]kube.TargetSummary, error) {
	if err := errors.Join(c.err("Targets"), c.gate.pass()); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return []kube.TargetSummary{{Name: "web", Replicas: c.replicas}}, nil
}

func (c *fakeCluster) ListMarked(context.Context, bool) ([]kube.Marked, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []kube.Marked
	for target, id := range c.marks {
		if c.restoring {
			all = append(all, kube.Marked{Namespace: "default", Kind: kube.Deployment, Name: target, Mark: kube.Mark{ID: id, Restoring: true}})
			continue
		}
		all = append(all, kube.Marked{Namespace: "default", Kind: kube.Deployment, Name: target, Mark: kube.Mark{
			ID: id, User: "other", Host: "elsewhere", Replicas: 2, Agent: kube.AgentName(target, id), ScaleFirst: c.scaleFirst, New: c.isNew,
		}})
	}
	return all, nil
}

func (c *fakeCluster) Mark(_ context.Context, t *kube.Target, m kube.Mark) (kube.Mark, error) {
	return m, c.change("Mark", func() { c.marks[t.Name] = m.ID })
}

func (c *fakeCluster) Remark(_ context.Context, _ *kube.Target, m kube.Mark) (kube.Mark, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m.Replicas = c.replicas
	return m, c.err("Remark")
}

func (c *fakeCluster) Unmark(_ context.Context, o kube.Object, id string) error {
	return c.change("Unmark", func() {
		if c.marks[o.Name] == id {
			delete(c.marks, o.Name)
		}
	})
}

func (c *fakeCluster) CreateSecret(_ context.Context, _ *kube.Target, a kube.Agent) error {
	return c.change("CreateSecret", func() { c.secrets[a.Name] = true })
}

func (c *fakeCluster) CreateAgent(_ context.Context, _ *kube.Target, a kube.Agent) error {
	return c.change("CreateAgent", func() { c.agents[a.Name] = true })
}

func (c *fakeCluster) DeleteAgent(_ context.Context, name string, _ kube.Notify) error {
	return c.change("DeleteAgent", func() { delete(c.agents, name) })
}

func (c *fakeCluster) DeleteSecret(_ context.Context, name string) error {
	return c.change("DeleteSecret", func() { delete(c.secrets, name) })
}

func (c *fakeCluster) CreateNew(_ context.Context, t *kube.Target, a kube.Agent, m kube.Mark) error {
	return c.change("CreateNew", func() { c.agents[a.Name], c.marks[t.Name], c.isNew = true, m.ID, true })
}

func (c *fakeCluster) DeleteConnect(_ context.Context, id string, _ kube.Notify) error {
	return c.change("DeleteConnect "+id, func() {})
}

func (c *fakeCluster) DeleteNew(_ context.Context, name, agent string, _ kube.Notify) error {
	return c.change("DeleteNew", func() {
		delete(c.agents, agent)
		delete(c.marks, name)
	})
}

func (c *fakeCluster) Shift(context.Context, kube.Shift, string) error {
	return c.change("Shift", func() { c.replicas = 0 })
}

func (c *fakeCluster) Unshift(_ context.Context, sh kube.Shift, agent string) (outcome kube.Outcome, err error) {
	err = c.change("Unshift", func() {
		switch mark := c.marks[sh.Name]; {
		case mark != "" && agent != "" && !strings.HasSuffix(agent, "-"+mark):
			outcome = kube.Taken
		case c.replicas == 0:
			c.replicas = sh.Replicas
		}
	})
	return outcome, err
}

func (c *fakeCluster) WaitGone(context.Context, kube.Object, kube.Notify) error {
	if err := c.gate.pass(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.note("WaitGone")
	return nil
}

func (c *fakeCluster) Serving(context.Context, kube.Shift) (int32, error) { return 0, c.gate.pass() }

func (c *fakeCluster) agentPod(name string) (kube.AgentPod, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.agents[name] {
		return kube.AgentPod{}, &kube.NotFoundError{What: "deployment", Name: name}
	}
	return kube.AgentPod{Namespace: "default", Name: name + "-pod", IP: netip.MustParseAddr("10.244.0.9")}, nil
}

func (c *fakeCluster) WaitAgentRunning(_ context.Context, name string, _ kube.Notify) (kube.AgentPod, error) {
	if err := errors.Join(c.err("WaitAgentRunning"), c.gate.pass()); err != nil {
		return kube.AgentPod{}, err
	}
	return c.agentPod(name)
}

func (c *fakeCluster) WaitAgentReady(_ context.Context, name string, _ kube.Notify) (kube.AgentPod, error) {
	if err := c.gate.pass(); err != nil {
		return kube.AgentPod{}, err
	}
	return c.agentPod(name)
}

func (c *fakeCluster) WaitEndpoints(context.Context, []string, kube.AgentPod) error {
	return c.gate.pass()
}

func (c *fakeCluster) WaitAvailable(ctx context.Context, _ kube.Object, _ int32, _ kube.Notify) ([]netip.Addr, error) {
	if err := errors.Join(c.err("WaitAvailable"), c.gate.pass()); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.note("WaitAvailable")
	return []netip.Addr{netip.MustParseAddr("10.244.0.2"), netip.MustParseAddr("10.244.0.3")}, ctx.Err()
}

func (c *fakeCluster) DialPodProxy(context.Context, string, string, int32) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}

func (c *fakeCluster) DialPortForward(context.Context, string, string, int32, string) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}

// gatedLedger is the real ledger behind a gate.
type gatedLedger struct {
	book *ledger.Ledger
	gate *gate
}

func (l gatedLedger) Begin(r ledger.Record) (Entry, error) {
	var e *ledger.Entry
	err := l.gate.do(func() (err error) { e, err = l.book.Begin(r); return err })
	if e == nil {
		return nil, err
	}
	return &gatedEntry{e, l.gate}, err
}

func (l gatedLedger) Take(session string) (Entry, error) {
	e, err := l.book.Take(session)
	if err != nil {
		return nil, err
	}
	return &gatedEntry{e, l.gate}, nil
}

func (l gatedLedger) Records() ([]ledger.Record, error) { return l.book.Records() }

type gatedEntry struct {
	*ledger.Entry
	gate *gate
}

func (e *gatedEntry) Append(st ledger.Step) error {
	return e.gate.do(func() error { return e.Entry.Append(st) })
}

func (e *gatedEntry) Forget() error { return e.gate.do(e.Entry.Forget) }

// fakeLink stands for a tunnel; what it is told is in the world's log.
type fakeLink struct {
	world *world
	gone  chan struct{}
	quiet chan struct{}
	err   error
}

func (l *fakeLink) tell(format string, args ...any) error {
	l.world.mu.Lock()
	defer l.world.mu.Unlock()
	l.world.note(format, args...)
	return nil
}

func (l *fakeLink) View(context.Context) (*tunnel.PodView, error) {
	return &tunnel.PodView{Hostname: "web-pod", PodIps: []string{"10.244.0.9"}, Env: [][]byte{[]byte("A=b")}}, nil
}
func (l *fakeLink) SetReady(context.Context) error { return l.tell("ready") }
func (l *fakeLink) Hold(context.Context) error     { return l.tell("hold") }
func (l *fakeLink) Retire(context.Context) error   { return l.tell("retire") }
func (l *fakeLink) HandOver(_ context.Context, pods []netip.Addr) error {
	return l.tell("hand over to %d", len(pods))
}

func (l *fakeLink) Attach(context.Context, Box, *tunnel.PodView) error { return l.tell("attach") }
func (l *fakeLink) AttachLaptop(served, *tunnel.PodView) (string, error) {
	return "teleswap:word@127.0.0.1:1080", l.tell("attach the laptop")
}

func (l *fakeLink) Logs(_ context.Context, stderr bool, p []byte) error {
	return l.tell("log %v %s", stderr, p)
}
func (l *fakeLink) EndLogs() error         { return l.tell("end logs") }
func (l *fakeLink) Transport() string      { return "fake" }
func (l *fakeLink) Gone() <-chan struct{}  { return l.gone }
func (l *fakeLink) Quiet() <-chan struct{} { return l.quiet }
func (l *fakeLink) Err() error             { return l.err }
func (l *fakeLink) Close() error           { return l.tell("close link") }

func (l *fakeLink) DialFiles(context.Context) (net.Conn, error) {
	return nil, errors.New("no files in this world")
}

func (l *fakeLink) WatchTrees(ctx context.Context, _ []string, _ func(*tunnel.Tree)) error {
	<-ctx.Done()
	return ctx.Err()
}

// fakeBox is a sandbox in which a port listens.
type fakeBox struct {
	world *world
	mu    sync.Mutex
	ports []uint16
	udp   []uint16
}

func (b *fakeBox) listen(ports ...uint16) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ports = ports
}

// receive lets the sandbox listen for datagrams.
func (b *fakeBox) receive(ports ...uint16) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.udp = ports
}

func (b *fakeBox) TakeMounts() BoxMounts { return BoxMounts{} }

func (b *fakeBox) TakeTUN() *os.File { return nil }
func (b *fakeBox) Listen(string, netip.AddrPort) (*os.File, error) {
	return nil, errors.ErrUnsupported
}

func (b *fakeBox) Dial(string, netip.AddrPort) (*os.File, error) { return nil, errors.ErrUnsupported }

func (b *fakeBox) Listening() ([]procnet.Socket, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []procnet.Socket
	for _, p := range b.ports {
		all = append(all, procnet.Socket{Network: "tcp", Addr: netip.AddrPortFrom(netip.IPv4Unspecified(), p)})
	}
	for _, p := range b.udp {
		all = append(all, procnet.Socket{Network: "udp6", Addr: netip.AddrPortFrom(netip.IPv6Unspecified(), p)})
	}
	return all, nil
}
func (b *fakeBox) Ack(err error) error { return err }
func (b *fakeBox) Kill() error         { return nil }
func (b *fakeBox) Close() error        { return nil }

type fakeBoxes struct{ box Box }

func (b fakeBoxes) Expect(string, string, bool) (<-chan Box, func()) {
	c := make(chan Box, 1)
	c <- b.box
	return c, func() {}
}

type fakeKeys struct {
	mu   sync.Mutex
	kept map[string]*tunnel.Keys
}

func (k *fakeKeys) Save(id string, keys *tunnel.Keys) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept[id] = keys
	return nil
}

func (k *fakeKeys) Load(id string) (*tunnel.Keys, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if keys := k.kept[id]; keys != nil {
		return keys, nil
	}
	return nil, os.ErrNotExist
}

func (k *fakeKeys) Forget(id string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.kept, id)
	return nil
}

// lab is a world, a laptop's disk, and a process of ours.
type lab struct {
	t     *testing.T
	world *world
	dir   string
	keys  *fakeKeys
}

func newLab(t *testing.T) *lab {
	return &lab{t: t, world: newWorld(), dir: filepath.Join(t.TempDir(), "sessions"), keys: &fakeKeys{kept: map[string]*tunnel.Keys{}}}
}

// proc is one process: a manager that dies at its gate.
type proc struct {
	*Manager
	cluster *fakeCluster
	gate    *gate
	box     *fakeBox
	link    *fakeLink
	stop    chan struct{}
	ended   chan struct{}
	kill    context.CancelFunc
}

// process starts a process that dies at the given point; 0: never.
func (l *lab) process(at int) *proc {
	l.t.Helper()
	book, err := ledger.Open(l.dir)
	if err != nil {
		l.t.Fatal(err)
	}
	g := newGate(at)
	p := &proc{
		gate:    g,
		cluster: &fakeCluster{world: l.world, gate: g, fail: map[string]func() error{}},
		box:     &fakeBox{world: l.world, ports: []uint16{8080}},
		link:    &fakeLink{world: l.world, gone: make(chan struct{}), quiet: make(chan struct{})},
		stop:    make(chan struct{}), ended: make(chan struct{}),
	}
	p.Manager = NewManager(Config{
		Connect: func(json.RawMessage) (Cluster, error) { return p.cluster, nil },
		Redact:  func(json.RawMessage, Cluster, string) (json.RawMessage, error) { return json.RawMessage(`{}`), nil },
		Check:   func() error { return nil },
		Dial:    func(context.Context, LinkConfig) (Link, error) { return p.link, g.pass() },
		Ledger:  gatedLedger{book, g},
		Boxes:   fakeBoxes{p.box},
		Keys:    l.keys,
		User:    "me", Host: "laptop", Now: time.Now,
	})
	ctx, kill := context.WithCancel(l.t.Context())
	p.kill = kill
	go func() {
		defer close(p.ended)
		p.Run(ctx, p.stop)
	}()
	l.t.Cleanup(p.end)
	return p
}

// die ends the process from outside: nothing of it has an effect any more.
func (p *proc) die() {
	close(p.gate.dead)
	p.gate.mu.Lock()
	p.gate.at = 1
	p.gate.mu.Unlock()
	p.end()
}

// end ends the process in order; a dead one is given up.
func (p *proc) end() {
	select {
	case <-p.gate.dead:
		p.kill()
	default:
	}
	select {
	case <-p.stop:
	default:
		close(p.stop)
	}
	<-p.ended
	p.kill()
}

// swap begins a swap whose child starts when asked to.
func (p *proc) swap(t *testing.T) (*Session, *collector) {
	t.Helper()
	s, events, err := p.Swap(t.Context(), Request{Ref: kube.Ref{Name: "web"}})
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{session: s, active: make(chan struct{}), over: make(chan struct{})}
	go c.collect(events)
	return s, c
}

// collector plays the command: it starts the child and ends it when told.
type collector struct {
	session *Session
	active  chan struct{}
	over    chan struct{}

	mu       sync.Mutex
	messages []string
	outcome  Outcome
	stopped  bool
}

func (c *collector) collect(events <-chan Event) {
	defer close(c.over)
	for e := range events {
		switch e := e.(type) {
		case Prepare:
			c.session.ChildStarted(4711)
		case Activated:
			close(c.active)
		case StopChild:
			c.mu.Lock()
			c.stopped = true
			c.mu.Unlock()
			c.session.ChildExited("status 0", nil)
		case Message:
			c.mu.Lock()
			c.messages = append(c.messages, e.Text)
			c.mu.Unlock()
		case Outcome:
			c.mu.Lock()
			c.outcome = e
			c.mu.Unlock()
		}
	}
}

// waits are the messages that say what is waited for.
func (c *collector) waits() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.messages), func(m string) bool { return !strings.HasPrefix(m, "waiting: ") })
}
