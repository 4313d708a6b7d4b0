package tunnel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/teleswap/teleswap/proxy/tunnel/tunnelpb"
)

// laptop is a connected one: the agent's end of its control stream.
type laptop struct {
	stream grpc.ServerStream
	conn   net.Conn      // the tunnel; closing it ends all of its streams
	heard  atomic.Bool   // something arrived since the last look
	gone   chan struct{} // closed when the control stream has been left behind

	welcomed bool // it has had its welcome; guarded by the server's announceMu

	sendMu sync.Mutex // gRPC takes one sender at a time
}

func (l *laptop) send(m *tunnelpb.ControlEvent) error {
	l.sendMu.Lock()
	defer l.sendMu.Unlock()
	return l.stream.SendMsg(m)
}

// serveControl serves a laptop for as long as it is connected. The end of its control
// stream, however it comes, is the end of its tunnel.
func (s *Server) serveControl(stream grpc.ServerStream) error {
	conn := transport(stream.Context())
	if conn == nil {
		return status.Error(codes.Internal, "the tunnel's connection is not known")
	}
	var first tunnelpb.ControlRequest
	if err := stream.RecvMsg(&first); err != nil {
		return err
	}
	l := &laptop{stream: stream, conn: conn, gone: make(chan struct{})}
	if version := first.GetHello().GetVersion(); version != protocolVersion {
		if err := s.welcome(l); err != nil { // says what this end speaks
			return err
		}
		return status.Errorf(codes.FailedPrecondition, "the laptop speaks version %d of the protocol, this agent version %d",
			version, protocolVersion)
	}
	defer func() { _ = conn.Close() }()
	goodbye := false
	s.join(l)
	defer func() { s.leave(l, goodbye) }()
	if err := s.welcome(l); err != nil {
		return err
	}
	s.wg.Go(func() { s.heartbeats(l) })
	err := s.receiveControl(l)
	if errors.Is(err, errGoodbye) {
		goodbye = true
		return nil
	}
	return err
}

var errGoodbye = errors.New("goodbye")

// join puts a laptop in the place of the one before, whose tunnel is ended first.
func (s *Server) join(l *laptop) {
	s.helloMu.Lock()
	defer s.helloMu.Unlock()
	for {
		s.mu.Lock()
		old := s.laptop
		if old == nil {
			s.laptop = l
			s.mu.Unlock()
			break
		}
		s.mu.Unlock()
		s.log.Info("another laptop connected: end the tunnel of the one before")
		_ = old.conn.Close()
		<-old.gone
	}
	s.cfg.Control.Laptop(true, false)
}

func (s *Server) leave(l *laptop, goodbye bool) {
	s.parked.drop(l.conn)
	s.cfg.Control.Laptop(false, goodbye)
	// Only now may another one come: its coming must not be told before this one's going.
	s.mu.Lock()
	s.laptop = nil
	s.mu.Unlock()
	close(l.gone)
}

// welcome answers hello, and tells what was announced before.
func (s *Server) welcome(l *laptop) error {
	err := l.send(&tunnelpb.ControlEvent{Kind: &tunnelpb.ControlEvent_Welcome{Welcome: &tunnelpb.Welcome{
		Version:               protocolVersion,
		AgentVersion:          s.cfg.Version,
		HeartbeatMilliseconds: uint32(s.cfg.Heartbeat.Milliseconds()),
	}}})
	if err != nil {
		return err
	}
	s.announceMu.Lock()
	defer s.announceMu.Unlock()
	l.welcomed = true
	s.mu.Lock()
	standing := slices.Clone(s.standing)
	s.mu.Unlock()
	for _, e := range standing {
		if err := l.send(controlEvent(e)); err != nil {
			return err
		}
	}
	return nil
}

// heartbeats tells the laptop that this end lives, and ends the tunnel when the laptop
// does not. It returns when the laptop has gone.
func (s *Server) heartbeats(l *laptop) {
	ticker := time.NewTicker(s.cfg.Heartbeat)
	defer ticker.Stop()
	silent := 0
	for sequence := uint64(1); ; sequence++ {
		select {
		case <-ticker.C:
		case <-l.gone:
			return
		}
		if l.heard.Swap(false) {
			silent = 0
		} else if silent++; silent >= patience {
			s.log.Warn("no word from the laptop: end its tunnel", "for", patience*s.cfg.Heartbeat)
			_ = l.conn.Close()
			<-l.gone
			return
		}
		_ = l.send(&tunnelpb.ControlEvent{Kind: &tunnelpb.ControlEvent_Heartbeat{
			Heartbeat: &tunnelpb.Heartbeat{Sequence: sequence},
		}}) // a failure shows in receiveControl
	}
}

// receiveControl does what the laptop asks until the stream ends.
func (s *Server) receiveControl(l *laptop) error {
	for {
		var m tunnelpb.ControlRequest
		if err := l.stream.RecvMsg(&m); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		l.heard.Store(true)
		if m.GetGoodbye() != nil {
			return errGoodbye
		}
		err := s.obey(&m)
		if m.GetId() == 0 {
			continue
		}
		ack := &tunnelpb.Ack{Id: m.GetId()}
		if err != nil {
			ack.Error = err.Error()
		}
		if err := l.send(&tunnelpb.ControlEvent{Kind: &tunnelpb.ControlEvent_Ack{Ack: ack}}); err != nil {
			return err
		}
	}
}

func (s *Server) obey(m *tunnelpb.ControlRequest) error {
	switch k := m.GetKind().(type) {
	case *tunnelpb.ControlRequest_SetReady:
		return s.cfg.Control.SetReady(k.SetReady.GetReady())
	case *tunnelpb.ControlRequest_Hold:
		return s.cfg.Control.Hold()
	case *tunnelpb.ControlRequest_HandOver:
		var addrs []netip.Addr
		for _, text := range k.HandOver.GetAddresses() {
			a, err := netip.ParseAddr(text)
			if err != nil {
				return fmt.Errorf("hand over: %w", err)
			}
			addrs = append(addrs, a)
		}
		return s.cfg.Control.HandOver(addrs)
	case *tunnelpb.ControlRequest_Heartbeat:
		return nil
	}
	return errors.New("this agent does not know that request")
}
