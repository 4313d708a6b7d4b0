package session

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/daemon/sandbox"
	"github.com/teleswap/teleswap/daemon/volumes"
	"github.com/teleswap/teleswap/proxy/procnet"
)

// PortTakenError says that a port on which the process is to listen is another's already.
type PortTakenError struct {
	Port   string // with /udp for one of datagrams
	Holder string // may be empty
}

func (e *PortTakenError) Error() string {
	by := "by another process"
	if e.Holder != "" {
		by = "by " + e.Holder
	}
	return fmt.Sprintf("port %s of this machine is taken %s, and without a sandbox the process must listen there\n"+
		"end that one, or have the process listen elsewhere and say so: --expose OTHER:%s", e.Port, by, e.Port)
}

// plainLimits is what a process without a sandbox does not have.
const plainLimits = "no sandbox: the process is in this machine's own network and sees every client as 127.0.0.1; it has neither the pod's address, " +
	"hostname, /etc/hosts and resolver nor the sidecars' ports at 127.0.0.1; the pod's files are below $TELESWAP_ROOT, not at their own paths"

// startPlain has the owner start its process without a sandbox, and joins the laptop to the pod.
func (s *Session) startPlain(ctx context.Context, sw *swap) (string, error) {
	if !s.req.NoVolumes || !s.req.Hold { // else it is a Service for what knows nothing of a pod
		s.note(plainLimits)
	}
	here := onLaptop(sw.target.Need)
	own := &plain{laptop: here, pid: s.pid}
	var at served = own
	sw.listens = own
	if s.req.Hold { // the process is nobody's child here
		at, sw.listens = newHeld(nowhere{}, here), nowhere{}
	}
	if err := s.layFiles(ctx, sw); err != nil {
		return "", err
	}
	proxy, err := sw.link.AttachLaptop(at, sw.view)
	if err != nil {
		return "", fmt.Errorf("join this machine to the pod: %w", err)
	}
	sw.prepared = true
	s.emit(Prepare{
		Plain: true, Hostname: sw.view.GetHostname(), Env: sw.view.GetEnv(), Hooks: sw.hooks(),
		Root: sw.root, Proxy: proxy,
	})
	return s.awaitChild(ctx)
}

// awaitChild waits until the owner says that its process runs.
func (s *Session) awaitChild(ctx context.Context) (string, error) {
	select {
	case <-s.childUp:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	return "pid " + strconv.Itoa(s.pid()), nil
}

// pid is the process's, once it runs.
func (s *Session) pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.childPID
}

// layFiles puts the pod's volumes below a directory of the session's own.
func (s *Session) layFiles(ctx context.Context, sw *swap) error {
	root := filepath.Join(s.cfg.FilesDir, s.id)
	if err := volumes.MakeRoot(root); err != nil {
		return err
	}
	sw.root = root
	noFUSE := volumes.CanMount()
	var mounts []volumes.Mount
	var notLive []string
	for _, m := range s.findMounts(ctx, sw) {
		if m.Live && noFUSE != nil {
			notLive = append(notLive, m.Path)
			continue
		}
		mounts = append(mounts, volumes.Mount{Path: m.Path, Live: m.Live, ReadOnly: m.ReadOnly, File: m.File})
	}
	if len(notLive) > 0 {
		s.warn("the process does not see the pod's %s: %v", strings.Join(notLive, ", "), noFUSE)
	}
	laid, err := volumes.Under(root, mounts)
	if err != nil || len(laid) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, filesPatience)
	defer cancel()
	sw.volumes, err = volumes.Start(ctx, volumes.Config{
		Trees: sw.link.WatchTrees, Files: sw.link.DialFiles, Mounts: laid, Warn: s.warn, Logger: s.log,
	})
	return err
}

// clearFiles removes what layFiles has made.
func (sw *swap) clearFiles() error {
	if sw.root == "" {
		return nil
	}
	return volumes.Clear(sw.root)
}

// checkPorts refuses a swap without a sandbox whose process could not listen.
func (s *Session) checkPorts(t *kube.Target) error {
	need := ports(t.Need, t.NeedUDP)
	all, err := onLaptop(t.Need).Listening()
	if err != nil {
		return fmt.Errorf("see what listens on this machine: %w", err)
	}
	for _, so := range all {
		if p := portOf(so); slices.Contains(need, p) && onAll(so) {
			return &PortTakenError{Port: p.String(), Holder: holder(so)}
		}
	}
	return nil
}

func portOf(so procnet.Socket) port {
	return port{int32(so.Addr.Port()), strings.HasPrefix(so.Network, "udp")}
}

// onAll says whether a socket is where a process on this machine would listen and we look for it: on a loopback address or
// on all.
func onAll(so procnet.Socket) bool {
	return so.Addr.Addr().IsUnspecified() || slices.Contains(loopbacks, so.Addr.Addr())
}

// holder is the process that has a socket, for people; empty where it cannot be seen.
func holder(so procnet.Socket) string {
	name, pid, ok := sandbox.SocketHolder(so.Inode)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%s (pid %d)", name, pid)
}

// plain is the laptop as the place of one process: what others listen on is not its.
type plain struct {
	laptop
	pid func() int

	mu   sync.Mutex
	own  map[uint64]bool // what is known of sockets, by inode
	last []procnet.Socket
}

// Listening implements listens: the sockets of the process and of what it has started. Where the system does not tell whose they
// are, all count.
func (p *plain) Listening() ([]procnet.Socket, error) {
	all, err := p.laptop.Listening()
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = all
	if err := p.learn(all); errors.Is(err, sandbox.ErrUnsupported) {
		return all, nil
	} else if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(all), func(so procnet.Socket) bool { return !p.own[so.Inode] }), nil
}

// learn finds out whose the sockets are that it has not seen yet: to look through all processes costs a while.
func (p *plain) learn(all []procnet.Socket) error {
	fresh := map[uint64]bool{}
	for _, so := range all {
		if own, known := p.own[so.Inode]; known {
			fresh[so.Inode] = own
		}
	}
	unseen := slices.DeleteFunc(slices.Clone(all), func(so procnet.Socket) bool { _, known := fresh[so.Inode]; return known })
	p.own = fresh
	if len(unseen) == 0 {
		return nil
	}
	inodes, blind, err := sandbox.Sockets(p.pid())
	if err != nil {
		return err
	}
	for _, so := range unseen {
		_, own := inodes[so.Inode]
		if !own && blind && holder(so) == "" {
			own = true // the process has become another user, as sudo does
		}
		p.own[so.Inode] = own
	}
	return nil
}

// taken says which of the ports another process has; nil: none.
func (p *plain) taken(ports []port) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, so := range p.last {
		if own, known := p.own[so.Inode]; known && !own && onAll(so) && slices.Contains(ports, portOf(so)) {
			return &PortTakenError{Port: portOf(so).String(), Holder: holder(so)}
		}
	}
	return nil
}

// taker is a place where others may listen, too.
type taker interface{ taken(ports []port) error }

var (
	_ taker  = (*plain)(nil)
	_ served = (*plain)(nil)
)
