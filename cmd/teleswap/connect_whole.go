package main

import (
	"context"
	"crypto/rand"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/pflag"

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
	flags.BoolVar(&f.userOnly, "user-only", false, "never ask for root: what there is without, a proxy")
	flags.BoolVarP(&f.detach, "detach", "d", false, "go on in the background; `teleswap disconnect` ends it, `teleswap leave ID` a proxy")
	flags.StringArrayVar(&f.never, "never-proxy", nil, "range, address or name that is left as it is (may be repeated)")
	flags.BoolVar(&f.allowConflicts, "allow-conflicts", false, "give the cluster addresses that lead elsewhere on this machine")
	flags.StringVar(&f.mapTo, "map", "", "have addresses of this range stand for the cluster's that lead elsewhere on this machine")
	flags.StringSliceVar(&f.namespaces, "mapped-namespaces", nil, "namespaces whose Services are called SERVICE.NAMESPACE (default: all that you may list)")
}

// check refuses these flags where a command is connected, and not this machine; and what cannot be meant, before anybody is asked for
// root or anything is made.
func (f *wholeFlags) check(flags *pflag.FlagSet, here bool) error {
	for _, name := range []string{"user-only", "detach", "never-proxy", "allow-conflicts", "map", "mapped-namespaces"} {
		if !here && flags.Changed(name) {
			return usage("--%s is for a connection of the whole machine, without a command", name)
		}
	}
	if f.mapTo != "" {
		if _, err := netip.ParsePrefix(f.mapTo); err != nil {
			return usage("--map %s is no range of addresses such as 198.19.0.0/16", f.mapTo)
		}
	}
	return checkDestinations("--never-proxy", f.never)
}

// message is the flags as a request has them.
func (f *wholeFlags) message(id string) *api.WholeMachine {
	return &api.WholeMachine{
		Warden: id, NeverProxy: f.never, AllowConflicts: f.allowConflicts, Map: f.mapTo, MappedNamespaces: f.namespaces,
	}
}

// userOnlyLine says what is not given without root.
const userOnlyLine = "· without root this machine's resolver and routes stay as they are: programs reach the cluster by a proxy, those that can use one;\n" +
	"  ping, UDP and the cluster's names in all others are not given, but `teleswap connect -- COMMAND` gives one command all of it"

// connectWhole connects this machine until Ctrl-C, or in the background until it is told to end.
func (a *app) connectWhole(ctx context.Context, o *connectOptions) error {
	f := &o.whole
	var also api.SwapRequest
	if err := o.also.put(&also); err != nil {
		return err
	}
	req, err := o.agent.request(a)
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
	req.AlsoProxy, req.WholeMachine = also.GetAlsoProxy(), f.message(id)
	return a.use(ctx, req, useWords{ending: "disconnecting", ended: "disconnected", active: func(ui *progress, _ *api.Active, _ string) error {
		ui.line("this machine is connected: Ctrl-C or `teleswap disconnect` ends it")
		return nil
	}})
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
