package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/daemon/internal/unixsock"
)

// A swap by `docker run` has two containers. The first is the *keeper*: Docker starts this program in it, without a network
// and with the rights that a sandbox takes. It makes the device in its network namespace, and waits. The second is the
// user's, which Docker joins to the first one's network, and with that to its hostname, resolv.conf and hosts. What Docker
// starts in there is this program again, as the *gate*: it reports to the keeper, who mounts the pod's volumes in the
// container's mount namespace, and then replaces itself by the command.

const (
	// KeeperControl is where the keeper finds the socket of the CLI.
	KeeperControl = "/.teleswap/control"
	// KeeperHandoff is where it finds the daemon's.
	KeeperHandoff = "/.teleswap/handoff"
	// storeThere is a directory of every container's, see storeHere: of the gate, or of what waits for it.
	storeThere = "/proc/1/task"
	// daemonlessGrace is what the CLI gets to end the container when the daemon has gone: somewhat more than it gives it.
	daemonlessGrace = endedByCLI + 5*time.Second
	// joinPatience is what the joining gets to end when it is given up.
	joinPatience = time.Second
	// endedByCLI is how long the CLI's ladder of signals may take.
	endedByCLI = 15 * time.Second
)

// keeper is the first process of the container that keeps the network of another.
type keeper struct {
	ctl    *Control
	spec   *Spec
	orders chan Order // closed when the CLI has gone
	cli    user       // as we see it
	netns  *os.File
	gates  *gates
	ends   chan struct{} // the container's first process has ended
	first  *os.File      // its pidfd
	hooks  chan error
}

// Keep is what the program does in a keeper. It returns the exit status.
func Keep() int {
	runtime.LockOSThread() // so that no other goroutine gets the main thread, which cannot be spent
	k := &keeper{orders: make(chan Order), ends: make(chan struct{}), hooks: make(chan error, 1)}
	if err := k.meet(); err != nil {
		return statusFailed
	}
	defer func() { _ = k.ctl.Close() }()
	err := k.run()
	if k.netns != nil { // however it ended
		if kerr := Kill(k.netns, unix.SIGKILL, os.Getpid()); err == nil {
			err = kerr
		}
	}
	if err != nil {
		return refuse(k.ctl, err)
	}
	return 0
}

// meet connects to the CLI and receives what is to be kept.
func (k *keeper) meet() error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: KeeperControl, Net: "unix"})
	if err != nil {
		return err
	}
	cred, err := unixsock.Peer(conn)
	if err != nil {
		return err
	}
	k.cli = user{int(cred.Uid), int(cred.Gid)}
	f, err := conn.File()
	if err = errors.Join(err, conn.Close()); err != nil {
		return err
	}
	if k.ctl, err = NewControl(f); err != nil {
		return err
	}
	var o Order
	if err := k.ctl.Receive(&o); err != nil || o.Spec == nil || o.Spec.Container == nil {
		return errors.Join(errors.New("no orders"), err)
	}
	k.spec = o.Spec
	k.spec.Handoff = KeeperHandoff
	go readOrders(k.ctl, k.orders) // ends with the process
	return nil
}

// run keeps the network until the container has ended.
func (k *keeper) run() error {
	tun, err := k.setUp()
	if err != nil {
		return err
	}
	defer func() { _ = tun.Close() }()
	if err := k.ctl.Send(Report{Ready: true}); err != nil {
		return err
	}
	ctx, giveUp := context.WithCancel(context.Background()) //nolint:forbidigo // the root of a process of its own
	defer giveUp()
	type joined struct {
		sockets *factory
		err     error
	}
	over := make(chan joined, 1)
	go func() {
		sockets, err := k.join(ctx, tun)
		over <- joined{sockets, err}
	}()
	select {
	case j := <-over:
		if j.err != nil {
			return j.err
		}
		return k.supervise(j.sockets)
	case <-k.orders:
		giveUp()
		k.gates.close()
		select {
		case <-over: // it uses the device
		case <-time.After(joinPatience): // it may wait for a file system whose server will not come; our end ends that
		}
		return errors.New("interrupted before the container's command started")
	}
}

// setUp makes the network, and what the container gets with it.
func (k *keeper) setUp() (*os.File, error) {
	// Docker mounts it read-only, as containers are not to change their kernel; this is of our own network.
	_ = unix.Mount("", "/proc/sys", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	tun, err := setUpNetwork(k.spec)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*os.File, error) { return nil, errors.Join(err, tun.Close()) }
	// They are mounts of files that Docker shares with the container: written, not replaced.
	for name, content := range map[string][]byte{resolvConf: k.spec.ResolvConf, hosts: k.spec.Hosts} {
		if content == nil {
			continue
		}
		if err := os.WriteFile(name, content, 0o644); err != nil {
			return fail(fmt.Errorf("write the container's %s: %w", name, err))
		}
	}
	if k.netns, err = os.Open("/proc/self/ns/net"); err != nil {
		return fail(fmt.Errorf("open the container's network namespace: %w", err))
	}
	if k.gates, err = listenGates(k.spec); err != nil {
		return fail(err)
	}
	return tun, nil
}

// join waits for the gate, mounts the volumes in its container, hands everything over to the daemon, and lets the gate
// start the command.
func (k *keeper) join(ctx context.Context, tun *os.File) (_ *factory, err error) {
	g, err := k.gates.first()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			g.refuse(err)
		}
	}()
	fd, err := unix.PidfdOpen(g.pid, 0)
	if err != nil {
		return nil, fmt.Errorf("watch the container's first process: %w", err)
	}
	k.first = os.NewFile(uintptr(fd), "pidfd")
	there, err := enterMounts(g.pid)
	if err != nil {
		return nil, err
	}
	defer there.leave()
	vols, err := k.makeVolumes(there, g)
	if err != nil {
		return nil, err
	}
	defer vols.close()
	sockets, err := introduce(ctx, k.spec, tun, vols, hello{Container: true, Owner: &g.user})
	if err != nil {
		return nil, err
	}
	vols.close()
	if err := there.do(vols.finish); err != nil {
		return nil, err
	}
	if err := there.do(func() error { vols.over.release(); return nil }); err != nil {
		return nil, err
	}
	if err := sockets.start(); err != nil {
		return nil, err
	}
	if err := g.open(); err != nil {
		return nil, err
	}
	go k.gates.serveLoop(g.user) // ends with the process
	go func() {                  // ends with the container
		awaitPidfd(k.first)
		close(k.ends)
	}()
	return sockets, k.ctl.Send(Report{Started: g.pid})
}

// makeVolumes mounts the volumes in the container.
func (k *keeper) makeVolumes(there *mountThread, g *gate) (*volumes, error) {
	dev, err := unix.Open("/dev", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) // ours: the container has no such device
	if err != nil {
		return nil, fmt.Errorf("open /dev: %w", err)
	}
	defer func() { _ = unix.Close(dev) }()
	users, err := idMap(k.cli, g.user)
	if err != nil {
		return nil, err
	}
	v := &volumes{
		mounts: k.spec.Mounts, owner: k.cli, taken: k.spec.Container.Places,
		device: func() (int, error) { return unix.Openat(dev, "fuse", unix.O_RDWR|unix.O_CLOEXEC, 0) },
	}
	return v, there.do(func() error {
		if len(k.spec.Mounts) > 0 {
			// A directory of the laptop may have been mounted shared: nothing is to get out by it.
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
				return fmt.Errorf("keep the container's mounts to itself: %w", err)
			}
		}
		over, err := newOverlay(storeThere)
		if err != nil {
			return err
		}
		over.idmap = users // the overlay's from here on
		if over.layer, err = deviceOf("/"); err != nil {
			return err
		}
		v.over, v.dir = over, "/"
		v.makeAll()
		return nil
	})
}

// supervise ends with the container.
func (k *keeper) supervise(sockets *factory) error {
	var late <-chan time.Time
	var end time.Time // when late comes
	by := func(grace time.Duration) {
		if at := time.Now().Add(grace); end.IsZero() || at.Before(end) { // who has gone first set the time
			end, late = at, time.After(grace)
		}
	}
	daemon := sockets.gone
	for {
		select {
		case <-k.ends:
			return nil
		case <-sockets.end:
			return nil
		case <-late:
			return nil
		case <-daemon:
			daemon = nil
			by(daemonlessGrace)
		case err := <-k.hooks:
			k.reportHook(err)
		case o, ok := <-k.orders:
			if !ok { // the CLI is dead
				k.orders = nil
				k.signal(unix.SIGTERM)
				by(orphanedGrace)
				continue
			}
			if o.Hook != nil {
				go func() { k.hooks <- Request(o.Hook) }() // ends with the request, or with us
			}
			if o.Signal != 0 {
				k.signal(o.Signal)
			}
		}
	}
}

func (k *keeper) reportHook(err error) {
	r := Report{HookEnded: true}
	if err != nil {
		r.HookError = err.Error()
	}
	_ = k.ctl.Send(r)
}

// signal sends a signal as `docker kill` does, to the container's first process. SIGKILL ends all that is in its network.
func (k *keeper) signal(sig syscall.Signal) {
	if sig == unix.SIGKILL {
		_ = Kill(k.netns, sig, os.Getpid())
		return
	}
	_ = unix.PidfdSendSignal(int(k.first.Fd()), sig, nil, 0)
}

// awaitPidfd returns when the process has ended.
func awaitPidfd(f *os.File) {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}, -1)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
