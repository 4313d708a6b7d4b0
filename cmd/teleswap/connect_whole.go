package main

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/host/warden"
)

// wardenVariable tells this program, started again in the background, under which id root's part waits for its session.
const wardenVariable = "TELESWAP_WARDEN"

// wholeFlags are the flags of a connection of the whole machine.
type wholeFlags struct {
	userOnly       bool
	detach         bool
	never          []string
	allowConflicts bool
	mapTo          string
	namespaces     []string
}

func (f *wholeFlags) add(flags *pflag.FlagSet) {
	flags.BoolVar(&f.userOnly, "user-only", false, "never ask for root: do not touch this machine's network")
	flags.BoolVarP(&f.detach, "detach", "d", false, "go on in the background; `teleswap disconnect` ends it")
	flags.StringArrayVar(&f.never, "never-proxy", nil, "range, address or name that is left as it is (may be repeated)")
	flags.BoolVar(&f.allowConflicts, "allow-conflicts", false, "give the cluster addresses that lead elsewhere on this machine")
	flags.StringVar(&f.mapTo, "map", "", "have addresses of this range stand for the cluster's that lead elsewhere on this machine")
	flags.StringSliceVar(&f.namespaces, "mapped-namespaces", nil, "namespaces whose Services are called SERVICE.NAMESPACE (default: all that you may list)")
}

// check refuses these flags where a command is connected, and not this machine.
func (f *wholeFlags) check(flags *pflag.FlagSet, here bool) error {
	for _, name := range []string{"user-only", "detach", "never-proxy", "allow-conflicts", "map", "mapped-namespaces"} {
		if !here && flags.Changed(name) {
			return usage("--%s is for a connection of the whole machine, without a command", name)
		}
	}
	return nil
}

// message is the flags as a request has them.
func (f *wholeFlags) message(id string) *api.WholeMachine {
	return &api.WholeMachine{
		Warden: id, NeverProxy: f.never, AllowConflicts: f.allowConflicts, Map: f.mapTo, MappedNamespaces: f.namespaces,
	}
}

// errUserOnly says what there is without root.
func errUserOnly() error {
	return usage("--user-only: without root this machine's resolver and routes stay as they are, so its programs cannot be connected all at once\n%s", noRootWays)
}

// connectWhole connects this machine until Ctrl-C, or in the background until it is told to end.
func (a *app) connectWhole(ctx context.Context, o *connectOptions) error {
	f := &o.whole
	if f.userOnly {
		return errUserOnly()
	}
	var also api.SwapRequest
	if err := o.also.put(&also); err != nil {
		return err
	}
	conn, err := a.kube.connection()
	if err != nil {
		return err
	}
	id := os.Getenv(wardenVariable)
	if id == "" && !a.sharesWarden() {
		id = strings.ToLower(rand.Text())
		if err := a.callWarden(ctx, id); err != nil {
			return err
		}
	}
	if f.detach && a.background == nil {
		if err := os.Setenv(wardenVariable, id); err != nil {
			return err
		}
		return a.detach(ctx)
	}
	_ = os.Unsetenv(wardenVariable) // it can only fail for a name that is none
	return a.use(ctx, &api.ConnectRequest{
		Connection: conn, AgentImage: o.image, AgentPullPolicy: o.pullPolicy, Pid: int64(os.Getpid()),
		AlsoProxy: also.GetAlsoProxy(), WholeMachine: f.message(id),
	}, "this machine is connected: Ctrl-C or `teleswap disconnect` ends it")
}

// sharesWarden says whether this user has connected this machine already: then root is not needed again.
func (a *app) sharesWarden() bool {
	r, err := warden.Read(warden.Dir)
	return err == nil && r.UID == os.Getuid() && !warden.LeftBehind(warden.Dir)
}

// callWarden starts root's part, which waits at the daemon for its session.
func (a *app) callWarden(ctx context.Context, id string) error {
	c, err := a.dial(ctx) // it listens for the warden
	if err != nil {
		return err
	}
	defer closeQuietly(c)
	return a.asRoot(ctx, "make a network device, route the cluster's addresses to it and point this machine's resolver at it", a.paths.Warden, id)
}

// use runs a session that does something with a connection, until it ends or a signal ends it. active is said when it works.
func (a *app) use(ctx context.Context, req *api.ConnectRequest, active string) error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	c, err := a.dialInterruptibly(ctx, signals)
	if err != nil {
		return err
	}
	defer closeQuietly(c)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Connect(ctx)
	if err != nil {
		return callError(err)
	}
	if err := stream.Send(&api.ConnectUp{Message: &api.ConnectUp_Request{Request: req}}); err != nil {
		return callError(err)
	}
	events := make(chan received)
	receiving := make(chan struct{})
	go func() { // ends with the stream, or with ctx
		defer close(receiving)
		receiveLoop(ctx, stream, events)
	}()
	u := &using{app: a, ui: newProgress(a.err), stream: stream, active: active}
	err = u.loop(events, signals)
	u.ui.stop()
	cancel()
	<-receiving
	return err
}

// receiveLoop passes on what the daemon says; it ends with the stream or with ctx.
func receiveLoop(ctx context.Context, stream grpc.BidiStreamingClient[api.ConnectUp, api.Event], events chan<- received) {
	for {
		e, err := stream.Recv()
		select {
		case events <- received{e, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// using is such a session as the command sees it.
type using struct {
	app    *app
	ui     *progress
	stream grpc.BidiStreamingClient[api.ConnectUp, api.Event]
	active string
	stands bool
	begun  os.Signal // the first signal that ended it
}

// loop ends with the session.
func (u *using) loop(events <-chan received, signals <-chan os.Signal) error {
	for {
		select {
		case sig := <-signals:
			if u.begun != nil {
				u.ui.line("disconnecting; the daemon goes on with it if you kill me")
				continue
			}
			u.begun = sig
			// Where the daemon is gone, receiving says so.
			_ = u.stream.Send(&api.ConnectUp{Message: &api.ConnectUp_End{End: &api.End{Reason: signalText(sig)}}})
		case r := <-events:
			switch {
			case r.err != nil && api.Broken(r.err):
				return errors.New("the daemon died, and the connection with it; its log: " + u.app.paths.Log)
			case r.err != nil:
				return callError(r.err)
			case r.event.GetActive() != nil:
				u.stands = true
				u.ui.line("%s", u.active)
				u.app.sayActive(r.event.GetSession())
			case r.event.GetDone() != nil:
				return u.verdict(r.event.GetDone())
			default:
				u.ui.event(r.event)
			}
		}
	}
}

// verdict makes the exit status of the end.
func (u *using) verdict(d *api.Done) error {
	switch {
	case d.GetError() != "" && d.GetUsage():
		return usage("%s", d.GetError())
	case d.GetError() != "":
		return errors.New(d.GetError())
	case u.begun != nil && !u.stands:
		return &exitError{status: signalStatus(u.begun)}
	}
	u.ui.line("disconnected (%s)", d.GetReason())
	return nil
}
