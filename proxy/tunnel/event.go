package tunnel

import (
	"errors"
	"net/netip"
	"time"

	"google.golang.org/grpc/status"

	"github.com/teleswap/teleswap/proxy/tunnel/tunnelpb"
)

// maxEvents is how many events wait for a reader of Events; more are dropped. The
// agent sends one for each port it cannot listen on, two at the pod's end, and one when
// what the pod's other processes listen on changes.
const maxEvents = 256

// Event is something that the agent told: PodShutdown, Quiet, ListenFailed or PodListening.
type Event interface{ isEvent() }

// PodShutdown says that the pod was told to end, and goes after Grace at the latest.
type PodShutdown struct{ Grace time.Duration }

// ListenFailed says that the agent cannot listen on a port, and why.
type ListenFailed struct {
	Port uint16
	Err  error
}

// Quiet says, after PodShutdown, that no new connection has arrived for a second: the
// cluster has moved on, and what is open now is all there is left.
type Quiet struct{}

// PodListening says what the pod's other processes (sidecars: not the agent) listen on,
// all of it, sorted. It comes once behind Connect, and again with each change. An address may be
// unspecified, a loopback one or the pod's.
type PodListening struct{ TCP, UDP []netip.AddrPort }

func (PodListening) isEvent() {}
func (Quiet) isEvent()        {}
func (PodShutdown) isEvent()  {}
func (ListenFailed) isEvent() {}

// eventOf translates what arrived on the control stream; nil if it is no event.
func eventOf(m *tunnelpb.ControlEvent) Event {
	switch k := m.GetKind().(type) {
	case *tunnelpb.ControlEvent_PodShutdown:
		return PodShutdown{Grace: time.Duration(k.PodShutdown.GetGraceMilliseconds()) * time.Millisecond}
	case *tunnelpb.ControlEvent_Quiet:
		return Quiet{}
	case *tunnelpb.ControlEvent_ListenFailed:
		return ListenFailed{Port: uint16(k.ListenFailed.GetPort()), Err: errors.New(k.ListenFailed.GetError())}
	case *tunnelpb.ControlEvent_PodListening:
		return PodListening{
			TCP: addrPortsOf(k.PodListening.GetTcp()),
			UDP: addrPortsOf(k.PodListening.GetUdp()),
		}
	}
	return nil
}

// controlEvent is eventOf's inverse.
func controlEvent(e Event) *tunnelpb.ControlEvent {
	switch e := e.(type) {
	case PodShutdown:
		return &tunnelpb.ControlEvent{Kind: &tunnelpb.ControlEvent_PodShutdown{
			PodShutdown: &tunnelpb.PodShutdown{GraceMilliseconds: uint32(e.Grace.Milliseconds())},
		}}
	case Quiet:
		return &tunnelpb.ControlEvent{Kind: &tunnelpb.ControlEvent_Quiet{Quiet: &tunnelpb.Quiet{}}}
	case ListenFailed:
		return &tunnelpb.ControlEvent{Kind: &tunnelpb.ControlEvent_ListenFailed{
			ListenFailed: &tunnelpb.ListenFailed{Port: uint32(e.Port), Error: e.Err.Error()},
		}}
	case PodListening:
		return &tunnelpb.ControlEvent{Kind: &tunnelpb.ControlEvent_PodListening{
			PodListening: &tunnelpb.PodListening{Tcp: endpointsOf(e.TCP), Udp: endpointsOf(e.UDP)},
		}}
	}
	return nil
}

// addrPortsOf drops what is no address.
func addrPortsOf(endpoints []*tunnelpb.Endpoint) []netip.AddrPort {
	var addrs []netip.AddrPort
	for _, e := range endpoints {
		if a, ok := netip.AddrFromSlice(e.GetAddress()); ok && e.GetPort() <= 0xffff {
			addrs = append(addrs, netip.AddrPortFrom(a, uint16(e.GetPort())))
		}
	}
	return addrs
}

func endpointsOf(addrs []netip.AddrPort) []*tunnelpb.Endpoint {
	endpoints := make([]*tunnelpb.Endpoint, len(addrs))
	for i, a := range addrs {
		endpoints[i] = &tunnelpb.Endpoint{Address: a.Addr().AsSlice(), Port: uint32(a.Port())}
	}
	return endpoints
}

// rpcError takes gRPC's wrapping off an error that the other end's code made.
func rpcError(err error) error {
	if s, ok := status.FromError(err); ok && s != nil {
		return &remoteError{status: s, err: err}
	}
	return err
}

// remoteError prints only the message; errors.As still finds gRPC's status.
type remoteError struct {
	status *status.Status
	err    error
}

func (e *remoteError) Error() string { return e.status.Message() }
func (e *remoteError) Unwrap() error { return e.err }
