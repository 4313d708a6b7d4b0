package restart

import (
	"context"
	"fmt"
	"net"
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
