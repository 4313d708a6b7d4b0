package restart

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func frameOf(kind, flags byte, stream byte, payload string) string {
	return string([]byte{0, 0, byte(len(payload)), kind, flags, 0, 0, 0, stream}) + payload
}

// TestStreams: which are open, and where a frame may be put in, however the bytes were cut.
func TestStreams(t *testing.T) {
	const settings, window = frameSettings, 0x8
	ask := func(stream byte) string { return frameOf(frameHeaders, flagEndHeaders|flagEndStream, stream, "head") }
	begin := func(stream byte) string { return frameOf(frameHeaders, flagEndHeaders, stream, "head") }
	end := func(stream byte) string { return frameOf(frameHeaders, flagEndHeaders|flagEndStream, stream, "end") }
	for name, c := range map[string]struct {
		sent, got  string
		open       []uint32
		begun, may bool
	}{
		"begun":             {preface + frameOf(settings, 0, 0, ""), frameOf(settings, 0, 0, "123456"), nil, true, true},
		"asked":             {preface + ask(1) + ask(3), frameOf(settings, 0, 0, ""), []uint32{1, 3}, false, true},
		"answering":         {preface + ask(1), begin(1), []uint32{1}, true, true},
		"one of two begun":  {preface + ask(1) + ask(3), begin(1), []uint32{1, 3}, false, true},
		"answered":          {preface + ask(1), begin(1) + frameOf(frameData, 0, 1, "data") + end(1), nil, true, true},
		"answered by data":  {preface + ask(1), begin(1) + frameOf(frameData, flagEndStream, 1, "data"), nil, true, true},
		"refused":           {preface + ask(1), frameOf(frameReset, 0, 1, "1234"), nil, true, true},
		"given up":          {preface + ask(1) + frameOf(frameReset, 0, 1, "1234"), "", nil, true, false},
		"windows":           {preface + ask(1) + frameOf(window, flagEndStream, 1, "1234"), frameOf(window, flagEndStream, 1, "1234"), []uint32{1}, false, true},
		"amid a frame":      {preface + ask(1), begin(1) + frameOf(frameData, 0, 1, "data")[:11], []uint32{1}, true, false},
		"amid a frame head": {preface + ask(1), begin(1) + frameOf(frameData, 0, 1, "data")[:5], []uint32{1}, true, false},
		"amid a head":       {preface + ask(1), frameOf(frameHeaders, 0, 1, "he"), []uint32{1}, true, false},
		"after a long head": {preface + ask(1), frameOf(frameHeaders, 0, 1, "he") + frameOf(frameContinuation, flagEndHeaders, 1, "ad"), []uint32{1}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			for _, piece := range []int{1, 5, 1000} {
				var s exchange
				for b := range slices.Chunk([]byte(c.sent), piece) {
					s.request(b)
				}
				may := false
				for b := range slices.Chunk([]byte(c.got), piece) {
					may = s.answer(b) == len(b)
				}
				open := slices.Sorted(maps.Keys(s.http2().open))
				owed, begun := s.owed()
				if !slices.Equal(open, c.open) || owed != (len(c.open) > 0) || begun != c.begun || may != c.may || s.idle() {
					t.Errorf("in pieces of %d: open %v, owed %t, begun %t, a place %t, idle %t", piece, open, owed, begun, may, s.idle())
				}
			}
		})
	}
}

// TestNoCallIsLost: gRPC's, over restarts of a server that ends in order and of one that just ends.
func TestNoCallIsLost(t *testing.T) {
	for name, end := range map[string]func(*grpc.Server){"in order": (*grpc.Server).GracefulStop, "at once": (*grpc.Server).Stop} {
		t.Run(name, func(t *testing.T) {
			p := newProcess(t)
			server := p.grpcServer()
			defer func() { server.Stop() }()
			conn, err := grpc.NewClient("passthrough:///process", grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return p.dialContext(t.Context()) }))
			if err != nil {
				t.Fatal(err)
			}
			client := grpc_health_v1.NewHealthClient(conn)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var asked atomic.Int64
			var clients sync.WaitGroup
			defer func() {
				stop()
				_ = conn.Close()
				clients.Wait()
			}()
			for n := range 8 {
				clients.Go(func() {
					for i := 0; ctx.Err() == nil; i++ {
						// A long name is a frame of some length.
						service := strings.Repeat(fmt.Sprintf("client %d, call %d ", n, i), 1+i%200)
						_, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: service})
						if err != nil {
							if ctx.Err() == nil {
								t.Errorf("%d/%d: %v", n, i, err)
							}
							return
						}
						asked.Add(1)
					}
				})
			}
			for range 10 {
				for target := asked.Load() + 30; asked.Load() < target && !t.Failed(); {
					time.Sleep(time.Millisecond)
				}
				p.gate.Hold(t.Context())
				end(server)
				p.gate.Started()
				p.listen()
				server = p.grpcServer()
			}
			stop()
			clients.Wait()
			if asked, handled := asked.Load(), p.handled.Load(); asked != handled {
				t.Errorf("%d calls were handled %d times", asked, handled)
			}
			t.Logf("%d calls", asked.Load())
		})
	}
}

func (p *process) grpcServer() *grpc.Server {
	s := grpc.NewServer(grpc.UnaryInterceptor(func(_ context.Context, _ any, _ *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
		p.handled.Add(1)
		return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
	}))
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	lis := p.lis
	go func() { _ = s.Serve(lis) }() // ends with the server
	return s
}
