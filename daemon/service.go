package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/daemon/session"
)

// service is the daemon's end of the local API.
type service struct {
	api.UnimplementedDaemonServer
	cfg      Config
	sessions *session.Manager
	wholes   *wholes
	since    time.Time
	quit     chan struct{} // closed when a command asks the daemon to go
	over     chan struct{} // closed when all sessions have ended

	mu    sync.Mutex
	calls int       // under way
	last  time.Time // when the last one ended
}

func newService(cfg Config, sessions *session.Manager, wholes *wholes) *service {
	return &service{
		cfg: cfg, sessions: sessions, wholes: wholes, since: time.Now(),
		quit: make(chan struct{}), over: make(chan struct{}), last: time.Now(),
	}
}

// call counts a call for the idle clock; the returned func ends it.
func (s *service) call() func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.calls--
		s.last = time.Now()
	}
}

// idleFor is how long nothing was asked and nothing was there.
func (s *service) idleFor() time.Duration {
	if s.sessions.Count() > 0 {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls > 0 {
		return 0
	}
	return time.Since(s.last)
}

// awaitEnd returns when the daemon is to go.
func (s *service) awaitEnd(ctx context.Context, idle time.Duration) {
	look := time.NewTicker(max(idle/20, time.Millisecond))
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.quit:
			return
		case <-look.C:
			if s.idleFor() >= idle {
				s.cfg.Logger.Info("idle", "for", idle)
				return
			}
		}
	}
}

// ended lets the calls of Quit return.
func (s *service) ended() { close(s.over) }

// Swap implements api.DaemonServer.
func (s *service) Swap(stream grpc.BidiStreamingServer[api.SwapUp, api.Event]) error {
	defer s.call()()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	req := first.GetRequest()
	if req == nil {
		return status.Error(codes.InvalidArgument, "the first message of a swap must be its request")
	}
	publish, err := publishFrom(req.GetPublish())
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	also, err := session.ParseAlso(req.GetAlsoProxy())
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	sess, events, err := s.sessions.Swap(stream.Context(), session.Request{
		Connection: json.RawMessage(req.GetConnection()),
		Ref: kube.Ref{
			Kind: req.GetKind(), Name: req.GetName(), Container: req.GetContainer(),
			Node: req.GetNode(), SkipInit: req.GetSkipInit(), ScaleFirst: req.GetScaleFirst(),
			New: req.GetNew(), ServiceAccount: req.GetServiceAccount(),
			Expose: mapsFrom(req.GetExpose()), FromPod: portsFrom(req.GetFromPod()), ToPod: portsFrom(req.GetToPod()),
		},
		Image: req.GetAgentImage(), PullPolicy: req.GetAgentPullPolicy(),
		PID: int(req.GetPid()), Command: req.GetCommand(), Publish: publish, InContainer: req.GetInContainer(),
		ContainerName: req.GetContainerName(), Also: also, NoVolumes: req.GetNoVolumes(),
		Plain: req.GetNoSandbox(), Watch: req.GetWatch(), Hold: req.GetHold(),
	})
	if err != nil {
		return unavailable(err)
	}
	var restarting sync.WaitGroup // ends with the stream
	defer restarting.Wait()
	s.attend(stream.Context(), sess, events, stream.Send, func() error {
		up, err := stream.Recv()
		switch {
		case err != nil:
		case up.GetChildRestarting() != nil: // takes its time
			restarting.Go(func() { sess.ChildRestarting(stream.Context()) })
		default:
			hear(sess, up)
		}
		return err
	})
	return nil
}

// attend passes a session's events to its owner, and what the owner says to the session, until both have ended.
func (s *service) attend(ctx context.Context, sess *session.Session, events <-chan session.Event, send func(*api.Event) error, hearOne func() error) {
	// The sandbox takes its door away itself, unless it was killed.
	defer func() { _ = os.Remove(s.cfg.Paths.Door(sess.ID())) }()
	sent := make(chan struct{})
	go func() { // ends with the session's events or with the stream
		defer close(sent)
		s.forward(ctx, sess, events, false, send)
	}()
	for hearOne() == nil {
	}
	select {
	case <-sess.Done():
	default:
		sess.OwnerGone()
	}
	<-sent
}

// hear passes on what the command says to its session.
func hear(sess *session.Session, up *api.SwapUp) {
	switch m := up.GetMessage().(type) {
	case *api.SwapUp_ChildStarted:
		sess.ChildStarted(int(m.ChildStarted.GetPid()))
	case *api.SwapUp_ChildExited:
		childExited(sess, m.ChildExited)
	case *api.SwapUp_End:
		sess.Leave(m.End.GetReason(), true)
	}
}

func childExited(sess *session.Session, exit *api.ChildExited) {
	var err error
	text := fmt.Sprintf("status %d", exit.GetCode())
	if exit.GetSignal() != 0 {
		text = syscall.Signal(exit.GetSignal()).String()
	}
	if exit.GetError() != "" {
		err = errors.New(exit.GetError())
	}
	sess.ChildExited(text, err)
}

// forward sends events until they end, or nobody takes them. With giveUp it ends at the
// first try to restore that fails: a person who waits is told then.
func (s *service) forward(ctx context.Context, sess *session.Session, events <-chan session.Event, giveUp bool, send func(*api.Event) error) {
	for {
		select {
		case e, open := <-events:
			if !open {
				return
			}
			failed, isFailed := e.(session.TryFailed)
			if isFailed && giveUp {
				e = session.Outcome{Target: sess.Status().Target, Err: failed.Err}
			}
			out := eventOf(sess.ID(), s.cfg.Paths.Handoff, e)
			if out == nil {
				continue
			}
			if err := send(out); err != nil || (isFailed && giveUp) {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// Logs implements api.DaemonServer.
func (s *service) Logs(stream grpc.ClientStreamingServer[api.LogChunk, api.LogsReply]) error {
	defer s.call()()
	chunk, err := stream.Recv()
	if err != nil {
		return err
	}
	sess := s.sessions.Get(chunk.GetSession())
	if sess == nil {
		return status.Errorf(codes.NotFound, "there is no session %q", chunk.GetSession())
	}
	for ; err == nil; chunk, err = stream.Recv() {
		if err := sess.Log(stream.Context(), chunk.GetStderr(), chunk.GetData()); err != nil {
			return failed(err)
		}
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	if err := sess.EndLogs(); err != nil {
		return failed(err)
	}
	return stream.SendAndClose(&api.LogsReply{})
}

// measurePatience bounds how long a status waits for the agents' answers.
const measurePatience = time.Second

// Status implements api.DaemonServer.
func (s *service) Status(ctx context.Context, _ *api.StatusRequest) (*api.StatusReply, error) {
	defer s.call()()
	reply := &api.StatusReply{Pid: int64(os.Getpid()), Version: s.cfg.Version, Since: timestamppb.New(s.since)}
	ctx, cancel := context.WithTimeout(ctx, measurePatience)
	defer cancel()
	sessions := s.sessions.Sessions()
	reply.Sessions = make([]*api.Session, len(sessions))
	var measuring sync.WaitGroup
	for i, sess := range sessions {
		measuring.Go(func() { reply.Sessions[i] = sessionOf(sess.Status(), sess.Measure(ctx)) })
	}
	measuring.Wait()
	return reply, nil
}

// Targets implements api.DaemonServer.
func (s *service) Targets(ctx context.Context, req *api.TargetsRequest) (*api.TargetsReply, error) {
	defer s.call()()
	namespace, targets, err := s.sessions.Targets(ctx, req.GetConnection())
	if err != nil {
		return nil, failed(err)
	}
	reply := &api.TargetsReply{Namespace: namespace}
	for _, t := range targets {
		reply.Targets = append(reply.Targets, targetOf(t))
	}
	return reply, nil
}

// Namespaces implements api.DaemonServer.
func (s *service) Namespaces(ctx context.Context, req *api.NamespacesRequest) (*api.NamespacesReply, error) {
	defer s.call()()
	names, err := s.sessions.Namespaces(ctx, req.GetConnection())
	if err != nil {
		return nil, failed(err)
	}
	return &api.NamespacesReply{Names: names}, nil
}

// Leave implements api.DaemonServer.
func (s *service) Leave(req *api.LeaveRequest, stream grpc.ServerStreamingServer[api.Event]) error {
	defer s.call()()
	chosen, err := s.sessions.Select(req.GetSelector(), req.GetAll())
	if err != nil {
		return failed(err)
	}
	return s.watchAll(stream, chosen, false, func(sess *session.Session) { sess.Leave("teleswap leave", false) })
}

// Restore implements api.DaemonServer.
func (s *service) Restore(req *api.RestoreRequest, stream grpc.ServerStreamingServer[api.Event]) error {
	defer s.call()()
	restoring, messages, err := s.sessions.Restore(stream.Context(), session.RestoreRequest{
		Connection: req.GetConnection(), Selector: req.GetSelector(), All: req.GetAll(),
		AllNamespaces: req.GetAllNamespaces(),
	})
	for _, m := range messages {
		if err := stream.Send(&api.Event{Event: &api.Event_Message{Message: messageOf(m)}}); err != nil {
			return err
		}
	}
	if err != nil {
		return failed(err)
	}
	return s.watchAll(stream, restoring, true, func(*session.Session) {})
}

// watchAll sends the events of several sessions until all have ended. With giveUp a
// session whose restore fails counts as ended.
func (s *service) watchAll(stream grpc.ServerStreamingServer[api.Event], all []*session.Session, giveUp bool, begin func(*session.Session)) error {
	var mu sync.Mutex // a stream takes one message at a time
	send := func(e *api.Event) error {
		mu.Lock()
		defer mu.Unlock()
		return stream.Send(e)
	}
	var watching sync.WaitGroup
	defer watching.Wait()
	for _, sess := range all {
		events, done := sess.Watch(false)
		begin(sess)
		watching.Go(func() {
			defer done()
			s.forward(stream.Context(), sess, events, giveUp, send)
		})
	}
	return nil
}

// Version implements api.DaemonServer.
func (s *service) Version(context.Context, *api.VersionRequest) (*api.VersionReply, error) {
	defer s.call()()
	return &api.VersionReply{
		Version: s.cfg.Version, Build: s.cfg.Build, Pid: int64(os.Getpid()), Sessions: int32(s.sessions.Count()),
	}, nil
}

// Quit implements api.DaemonServer.
func (s *service) Quit(req *api.QuitRequest, stream grpc.ServerStreamingServer[api.Event]) error {
	defer s.call()()
	if n := s.sessions.Count(); req.GetIfIdle() && n > 0 {
		return status.Errorf(codes.FailedPrecondition, "the daemon has %d sessions", n)
	}
	err := s.watchAll(stream, s.sessions.Sessions(), false, func(*session.Session) { s.askToGo() })
	s.askToGo()
	select {
	case <-s.over:
	case <-stream.Context().Done():
	}
	return err
}

func (s *service) askToGo() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.quit:
	default:
		close(s.quit)
	}
}

// failed is an answer that says what went wrong, in contrast to a daemon that is gone.
func failed(err error) error {
	if isBadInput(err) {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return status.Error(codes.Unknown, err.Error())
}

func unavailable(err error) error {
	if errors.Is(err, session.ErrClosing) {
		return status.Error(codes.Aborted, err.Error())
	}
	return failed(err)
}
