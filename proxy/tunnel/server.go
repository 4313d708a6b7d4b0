package tunnel

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/teleswap/teleswap/proxy/tunnel/tunnelpb"
)

// ServerConfig is what the agent's end needs.
type ServerConfig struct {
	// Dial connects from the pod by "tcp" or "udp"; nil means the kernel's, with no deadline
	// but its own. A UDP connection is read and written one datagram at a time.
	Dial func(ctx context.Context, network string, address netip.AddrPort) (net.Conn, error)
	// Ping sends one ICMP echo and returns nil when its reply has come; nil means that the
	// agent cannot. An error that wraps ErrPingUnavailable says so too, any other is about the way.
	Ping func(ctx context.Context, to netip.Addr, payload []byte) error
	// Files serves the pod's files by SFTP on a connection until its end, or ctx's, and
	// closes it; nil means that there are none.
	Files func(ctx context.Context, conn net.Conn) error
	// WatchTrees gives the content of each root, at once and after each change, until ctx ends
	// or give fails; the error is the laptop's to read. nil means that the agent cannot. A tree is
	// given away: it must not be changed afterwards.
	WatchTrees func(ctx context.Context, roots []string, give func(*Tree) error) error
	// Log writes a piece of the local process's output where the pod's logs come from; nil
	// means that there is no such place. The bytes are valid until it returns.
	Log func(stderr bool, p []byte) error
	// LogEnd, unless nil, is called when no more of it will come.
	LogEnd func()
	// Resolve asks the pod's nameservers one DNS message; nil means that there are none.
	Resolve func(ctx context.Context, msg []byte) ([]byte, error)
	// View reports the pod.
	View func() (*PodView, error)
	// Control is told what the laptop wants.
	Control Control
	// Version of the agent, for Welcome.
	Version string
	// Heartbeat is how often either end sends one; 0 means 5 s. Three without an answer
	// mean that the other end is gone.
	Heartbeat time.Duration
	// Logger; nil discards.
	Logger *slog.Logger
}

// Control is what the laptop can tell the agent. The calls come one at a time; an error
// is passed back to the laptop.
type Control interface {
	// SetReady says whether the local process listens.
	SetReady(ready bool) error
	// Hold says that it is gone.
	Hold() error
	// HandOver says who takes the connections instead.
	HandOver(addrs []netip.Addr) error
	// Laptop says whether a laptop is connected. It is gone unless it said goodbye first.
	Laptop(connected, goodbye bool)
}

// Server is the agent's end of a tunnel. At any time at most one laptop is connected: one
// that says hello takes the place of the one before.
type Server struct {
	cfg     ServerConfig
	log     *slog.Logger
	grpc    *grpc.Server
	buffers frameBuffers
	parked  parkedStreams
	wg      sync.WaitGroup // receivers of spliced connections

	helloMu sync.Mutex // one laptop takes the other's place at a time

	announceMu sync.Mutex // events reach a laptop in their order, behind its welcome

	mu       sync.Mutex
	laptop   *laptop // nil while none is connected
	standing []Event // announced; every laptop that connects is told
}

// NewServer makes a server; Serve starts it, Close ends it.
func NewServer(cfg ServerConfig) *Server {
	if cfg.Dial == nil {
		dialer := &net.Dialer{}
		dialer.SetMultipathTCP(false)
		cfg.Dial = func(ctx context.Context, network string, address netip.AddrPort) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address.String())
		}
	}
	if cfg.Heartbeat <= 0 {
		cfg.Heartbeat = defaultHeartbeat
	}
	s := &Server{cfg: cfg, log: cfg.Logger}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.parked.init()
	s.grpc = grpc.NewServer(
		grpc.Creds(identified{}),
		grpc.ForceServerCodecV2(codec{}),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.WriteBufferSize(ioBuffer),
		grpc.ReadBufferSize(ioBuffer),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.WaitForHandlers(true),
	)
	s.grpc.RegisterService(serviceDesc(), s)
	return s
}

// Serve serves the connections of lis, which are through mutual TLS already, until Close.
// It closes lis.
func (s *Server) Serve(lis net.Listener) error {
	err := s.grpc.Serve(lis)
	if errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

// Close ends the tunnel and the connections in it, and waits for their goroutines.
func (s *Server) Close() error {
	s.grpc.Stop()
	s.wg.Wait()
	return nil
}

// Announce tells an event to the laptop, and to each that connects later. A PodListening
// takes the place of the one before.
func (s *Server) Announce(e Event) {
	s.announceMu.Lock()
	defer s.announceMu.Unlock()
	s.mu.Lock()
	if _, ok := e.(PodListening); ok {
		s.standing = slices.DeleteFunc(s.standing, func(old Event) bool {
			_, ok := old.(PodListening)
			return ok
		})
	}
	s.standing = append(s.standing, e)
	l := s.laptop
	s.mu.Unlock()
	if l != nil && l.welcomed {
		_ = l.send(controlEvent(e)) // a failure shows in the control stream's receiver
	}
}

// service is the type of *Server that gRPC checks against.
type service interface{ serveControl(grpc.ServerStream) error }

func serviceDesc() *grpc.ServiceDesc {
	stream := func(name string, serve func(*Server, grpc.ServerStream) error) grpc.StreamDesc {
		d := *rawStream(name)
		d.Handler = func(s any, stream grpc.ServerStream) error { return serve(s.(*Server), stream) }
		return d
	}
	return &grpc.ServiceDesc{
		ServiceName: serviceName,
		HandlerType: (*service)(nil),
		Methods: []grpc.MethodDesc{
			unary(methodExchange, (*Server).serveExchange),
			unary(methodView, (*Server).serveView),
			unary(methodPing, (*Server).servePing),
		},
		Streams: []grpc.StreamDesc{
			stream(methodControl, (*Server).serveControl),
			stream(methodDial, (*Server).serveDial),
			stream(methodPark, (*Server).servePark),
			stream(methodTrees, (*Server).serveTrees),
			stream(methodLogs, (*Server).serveLogs),
		},
		Metadata: "proxy/tunnel/SPEC.md",
	}
}

// unary describes a method with one request and one answer. The server has no
// interceptors, so none is called.
func unary[Req, Res any](name string, serve func(*Server, context.Context, *Req) (*Res, error)) grpc.MethodDesc {
	return grpc.MethodDesc{
		MethodName: name,
		Handler: func(s any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			req := new(Req)
			if err := decode(req); err != nil {
				return nil, err
			}
			return serve(s.(*Server), ctx, req)
		},
	}
}

func (s *Server) serveExchange(ctx context.Context, m *tunnelpb.DNSMessage) (*tunnelpb.DNSMessage, error) {
	if s.cfg.Resolve == nil {
		return nil, status.Error(codes.FailedPrecondition, "the pod has no nameservers")
	}
	answer, err := s.cfg.Resolve(ctx, m.GetMessage())
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &tunnelpb.DNSMessage{Message: answer}, nil
}

func (s *Server) serveView(context.Context, *tunnelpb.PodViewRequest) (*PodView, error) {
	view, err := s.cfg.View()
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return view, nil
}

// serveDial serves one outbound connection, flow or stream of files.
func (s *Server) serveDial(stream grpc.ServerStream) error {
	frames := frameStream{stream: stream, buffers: &s.buffers}
	_, body, err := frames.expect(kindOpen)
	if err != nil {
		return badFrame(err)
	}
	open, err := parseOpen(body)
	if err != nil {
		return badFrame(err)
	}
	if open.network == networkFiles {
		return s.serveFiles(&frames)
	}
	frames.datagrams = open.network == networkUDP
	conn, err := s.cfg.Dial(stream.Context(), open.network.String(), open.address)
	if err != nil {
		failure := failureBody{code: codeOf(err), text: err.Error()}
		return frames.sendBody(kindFailed, failure.append(nil))
	}
	opened := openedBody{local: addrPort(conn.LocalAddr()), remote: addrPort(conn.RemoteAddr())}
	if err := frames.sendBody(kindOpened, opened.append(nil)); err != nil {
		_ = conn.Close()
		return err
	}
	if frames.datagrams {
		return s.spliceDatagrams(&frames, conn)
	}
	return s.splice(&frames, conn)
}

// serveFiles serves one stream of files, from its answer to its end.
func (s *Server) serveFiles(frames *frameStream) error {
	if s.cfg.Files == nil {
		failure := failureBody{code: codeNotSupported, text: "this agent serves no files"}
		return frames.sendBody(kindFailed, failure.append(nil))
	}
	opened := openedBody{local: noAddress(), remote: noAddress()}
	if err := frames.sendBody(kindOpened, opened.append(nil)); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(frames.stream.Context())
	defer cancel()
	queued := frameStream{stream: frames.stream, buffers: newSendQueue(&s.buffers), sent: frames.sent, received: frames.received}
	none := networkTCP.addr(noAddress())
	conn := newConn(queued, cancel, s.wg.Go, none, none)
	s.wg.Go(conn.run) // until the stream's end
	if err := s.cfg.Files(ctx, conn); err != nil && ctx.Err() == nil {
		s.log.Info("a stream of files ended", "error", err)
	}
	_ = conn.Close()
	return nil
}

// addrPort is the address of a TCP or UDP end; the unspecified one for what has none.
func addrPort(a net.Addr) netip.AddrPort {
	withPort, ok := a.(interface{ AddrPort() netip.AddrPort })
	if !ok {
		return noAddress()
	}
	ap := withPort.AddrPort()
	if !ap.IsValid() {
		return noAddress()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// badFrame is the status of a stream whose laptop broke the protocol, or went away.
func badFrame(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.InvalidArgument, err.Error())
}
