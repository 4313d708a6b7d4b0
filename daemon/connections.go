package daemon

import (
	"encoding/json"

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
	var use session.Use // nil: the command runs in the connection
	whole := req.GetWholeMachine()
	switch {
	case whole != nil:
		use = s.wholeUse(req, whole)
	case req.GetSandbox(), req.GetInContainer(), req.GetNoSandbox():
	default:
		return status.Error(codes.InvalidArgument, "the request does not say what the connection is for; are the command and the daemon of one version?")
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
