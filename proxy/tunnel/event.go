package tunnel

import (
	"errors"
	"time"

	"google.golang.org/grpc/status"

	"github.com/teleswap/teleswap/proxy/tunnel/tunnelpb"
)

// maxEvents is how many events wait for a reader of Events; more are dropped. The
// agent sends one for each port it cannot listen on, and two at the pod's end.
const maxEvents = 256

// Event is something that the agent told: PodShutdown, Quiet or ListenFailed.
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
	}
	return nil
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
