package daemon

import (
	"context"
	"encoding/json"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/session"
)

// Connect implements api.DaemonServer.
func (s *service) Connect(stream grpc.BidiStreamingServer[api.ConnectUp, api.Event]) error {
	defer s.call()()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	req := first.GetRequest()
	if req == nil {
		return status.Error(codes.InvalidArgument, "the first message of a connect must be its request")
	}
	also, err := session.ParseAlso(req.GetAlsoProxy())
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	use, err := s.useOf(stream.Context(), req)
	if err != nil {
		return failed(err)
	}
	if held, ok := use.(io.Closer); ok { // what it holds from the first is held until the session is over, whether it began or not
		defer func() {
			if err := held.Close(); err != nil {
				s.cfg.Logger.Warn("close what a connection was for", "error", err)
			}
		}()
	}
	sess, events, err := s.sessions.Connect(stream.Context(), session.Request{
		Connection: json.RawMessage(req.GetConnection()), Image: req.GetAgentImage(), PullPolicy: req.GetAgentPullPolicy(),
		PID: int(req.GetPid()), Command: req.GetCommand(), InContainer: req.GetInContainer(), ContainerName: req.GetContainerName(),
		Also: also, Plain: req.GetNoSandbox(), Use: use,
	})
	if err != nil {
		return unavailable(err)
	}
	s.attend(stream.Context(), sess, events, stream.Send, func() error {
		up, err := stream.Recv()
		if err != nil {
			return err
		}
		switch m := up.GetMessage().(type) {
		case *api.ConnectUp_ChildStarted:
			sess.ChildStarted(int(m.ChildStarted.GetPid()))
		case *api.ConnectUp_ChildExited:
			childExited(sess, m.ChildExited)
		case *api.ConnectUp_End:
			sess.Leave(m.End.GetReason(), true)
		}
		return nil
	})
	return nil
}

// useOf is what a connection is for; nil: the command that was asked for runs in it.
func (s *service) useOf(ctx context.Context, req *api.ConnectRequest) (session.Use, error) {
	switch {
	case req.GetSandbox() || req.GetInContainer() || req.GetNoSandbox():
		return nil, nil
	case req.GetWholeMachine() != nil:
		return s.wholeUse(req, req.GetWholeMachine()), nil
	case req.GetProxy() != nil || len(req.GetForwards()) > 0:
		o, err := newOutlets(ctx, s.cfg, req)
		if err != nil { // a nil *outlets would be no nil Use
			return nil, err
		}
		return o, nil
	}
	return nil, status.Error(codes.InvalidArgument, "the request does not say what the connection is for; are the command and the daemon of one version?")
}
