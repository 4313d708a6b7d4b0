package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/daemon/ports"
	"github.com/teleswap/teleswap/daemon/sandbox"
	"github.com/teleswap/teleswap/daemon/session"
)

// eventOf is an event for the wire; nil for those that stay inside.
func eventOf(id, handoff string, e session.Event) *api.Event {
	out := &api.Event{Session: id}
	switch e := e.(type) {
	case session.Step:
		out.Event = &api.Event_Step{Step: stepOf(e)}
	case session.Message:
		out.Event = &api.Event_Message{Message: messageOf(e)}
	case session.Prepare:
		out.Event = &api.Event_Prepare{Prepare: &api.Prepare{
			Token: e.Token, Handoff: handoff, Hostname: e.Hostname, Addresses: e.Addresses, Mtu: int32(e.MTU),
			ResolvConf: e.ResolvConf, Hosts: e.Hosts, Env: e.Env,
			PostStart: hookOf(e.Hooks.PostStart), PreStop: hookOf(e.Hooks.PreStop), Mounts: mountsOf(e.Mounts),
			NoSandbox: e.Plain, Root: e.Root, Proxy: e.Proxy,
		}}
	case session.Activated:
		out.Event = &api.Event_Active{Active: &api.Active{Target: e.Target, Pid: int64(e.PID), Transport: e.Transport, Published: publishedOf(e.Published)}}
	case session.RestoreBegun:
		out.Event = &api.Event_Restoring{Restoring: &api.Restoring{Reason: e.Reason}}
	case session.MayRestart:
		out.Event = &api.Event_MayRestart{MayRestart: &api.MayRestart{}}
	case session.StopChild:
		out.Event = &api.Event_StopChild{StopChild: &api.StopChild{Reason: e.Reason, GraceMilliseconds: e.Grace.Milliseconds()}}
	case session.Outcome:
		out.Event = &api.Event_Done{Done: doneOf(e)}
	default:
		return nil
	}
	return out
}

func mountsOf(mounts []sandbox.Mount) []*api.Mount {
	out := make([]*api.Mount, 0, len(mounts))
	for _, m := range mounts {
		out = append(out, &api.Mount{Path: m.Path, Live: m.Live, ReadOnly: m.ReadOnly, File: m.File})
	}
	return out
}

func hookOf(h *kube.Hook) *api.Hook {
	if h == nil {
		return nil
	}
	out := &api.Hook{Command: h.Command, SleepMilliseconds: h.Sleep.Milliseconds()}
	if h.URL != "" {
		out.HttpGet = &api.HTTPGet{Url: h.URL, Headers: h.Headers}
	}
	return out
}

func publishedOf(all []session.Publish) []*api.Publish {
	out := make([]*api.Publish, 0, len(all))
	for _, p := range all {
		out = append(out, &api.Publish{Address: p.At.Addr().String(), Port: uint32(p.At.Port()), Inside: uint32(p.Inside), Udp: p.UDP})
	}
	return out
}

// publishFrom is publishedOf's inverse, for what is asked for.
func publishFrom(all []*api.Publish) ([]session.Publish, error) {
	out := make([]session.Publish, 0, len(all))
	for _, p := range all {
		addr, err := netip.ParseAddr(p.GetAddress())
		if err != nil || p.GetPort() > maxPort || p.GetInside() > maxPort {
			return nil, fmt.Errorf("publish %s:%d: no such address", p.GetAddress(), p.GetPort())
		}
		out = append(out, session.Publish{At: netip.AddrPortFrom(addr, uint16(p.GetPort())), Inside: uint16(p.GetInside()), UDP: p.GetUdp()})
	}
	return out, nil
}

const maxPort = 65535

func mapsFrom(all []*api.PortMap) []kube.PortMap {
	out := make([]kube.PortMap, 0, len(all))
	for _, m := range all {
		out = append(out, kube.PortMap{Local: int32(m.GetLocal()), Remote: int32(m.GetRemote()), UDP: m.GetUdp()})
	}
	return out
}

func mapsOf(all []kube.PortMap) []*api.PortMap {
	out := make([]*api.PortMap, 0, len(all))
	for _, m := range all {
		out = append(out, &api.PortMap{Local: uint32(m.Local), Remote: uint32(m.Remote), Udp: m.UDP})
	}
	return out
}

func portsFrom(all []*api.Port) []kube.Port {
	out := make([]kube.Port, 0, len(all))
	for _, p := range all {
		out = append(out, kube.Port{Number: int32(p.GetNumber()), UDP: p.GetUdp()})
	}
	return out
}

func messageOf(m session.Message) *api.Message {
	return &api.Message{Warning: m.Warning, Text: m.Text}
}

func stepOf(st session.Step) *api.Step {
	states := map[session.StepState]api.Step_State{
		session.StepStarted: api.Step_STARTED, session.StepDone: api.Step_DONE, session.StepFailed: api.Step_FAILED,
	}
	return &api.Step{
		Name: st.Name, State: states[st.State], Detail: st.Detail, Microseconds: st.Took.Microseconds(), Undo: st.Undo,
	}
}

func doneOf(o session.Outcome) *api.Done {
	done := &api.Done{
		Restored: o.Restored, Unchanged: o.Unchanged, Interrupted: o.Interrupted, Target: o.Target, Reason: o.Reason,
	}
	if o.Err != nil {
		done.Error = o.Err.Error()
		done.Usage = o.Unchanged && isBadInput(o.Err)
	}
	return done
}

// isBadInput tells errors that the user mends in the command line from those of the
// cluster.
func isBadInput(err error) bool {
	var notFound *kube.NotFoundError
	var noContainer *kube.NoContainerError
	var several *kube.SeveralContainersError
	var swapped *kube.AlreadySwappedError
	var none *kube.NoReplicasError
	var unsupported *kube.UnsupportedError
	var ambiguous *kube.AmbiguousError
	var port *kube.PortError
	var publish *session.PublishError
	var made *kube.NewError
	var taken *session.PortTakenError
	var held *ports.TakenError
	var open *ports.OpenError
	return errors.As(err, &held) || errors.As(err, &open) ||
		errors.As(err, &taken) || errors.As(err, &notFound) || errors.As(err, &noContainer) || errors.As(err, &several) ||
		errors.As(err, &swapped) || errors.As(err, &none) || errors.As(err, &unsupported) || errors.As(err, &ambiguous) ||
		errors.As(err, &port) || errors.As(err, &publish) || errors.As(err, &made)
}

func sessionOf(st session.Status, m session.Measured) *api.Session {
	out := &api.Session{
		Id: st.ID, Target: st.Target, Namespace: st.Namespace, Context: st.Context, State: st.State.String(),
		Since: timestamppb.New(st.Since), Pid: int64(st.PID), Transport: st.Transport, AgentPod: st.AgentPod,
		Problem: st.Problem, Command: st.Command, Ports: mapsOf(st.Ports), Published: publishedOf(st.Published),
		Container: st.Container, Connects: st.Connect,
	}
	out.Transport = cmp.Or(m.Transport, out.Transport)
	out.AgentPod = cmp.Or(m.AgentPod, out.AgentPod)
	out.RoundTripMicroseconds = m.RoundTrip.Microseconds()
	out.BytesIn, out.BytesOut, out.DnsQueries, out.HostChanges = m.In, m.Out, m.Queries, m.Changes
	for _, step := range st.Steps {
		out.Steps = append(out.Steps, stepOf(step))
	}
	return out
}

func targetOf(t kube.TargetSummary) *api.Target {
	out := &api.Target{Kind: t.Kind.String(), Name: t.Name, Replicas: t.Replicas, Ready: t.Ready, Containers: t.Containers}
	if t.Mark != nil {
		out.Mark = &api.Mark{
			Session: t.Mark.ID, User: t.Mark.User, Host: t.Mark.Host, Since: timestamppb.New(t.Mark.Since),
		}
	}
	return out
}
