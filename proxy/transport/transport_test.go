package transport

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeConn knows which way it came and whether it was closed.
type fakeConn struct {
	net.Conn
	way string

	mu     sync.Mutex
	closed bool
}

func (c *fakeConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return nil
}

// fakeWays makes ways that answer after a delay, and keeps what they made.
type fakeWays struct {
	mu    sync.Mutex
	conns []*fakeConn
	tried []string
}

var errFake = errors.New("connection refused")

func (f *fakeWays) way(name string, delay time.Duration, err error) Way {
	return Way{Name: name, Timeout: 3 * time.Second, Dial: func(ctx context.Context) (net.Conn, error) {
		f.mu.Lock()
		f.tried = append(f.tried, name)
		f.mu.Unlock()
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		c := &fakeConn{way: name}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.conns = append(f.conns, c)
		return c, nil
	}}
}

func TestLadderChooses(t *testing.T) {
	const never = time.Hour
	tests := []struct {
		name   string
		ways   func(f *fakeWays) []Way
		want   string
		within time.Duration
		tried  []string
	}{
		{
			name: "the first that answers at once",
			ways: func(f *fakeWays) []Way {
				return []Way{f.way("a", time.Millisecond, nil), f.way("b", 0, nil)}
			},
			want: "a", within: time.Millisecond, tried: []string{"a"},
		},
		{
			name: "the next at once when the first fails",
			ways: func(f *fakeWays) []Way {
				return []Way{f.way("a", time.Millisecond, errFake), f.way("b", time.Millisecond, nil)}
			},
			want: "b", within: 2 * time.Millisecond, tried: []string{"a", "b"},
		},
		{
			name: "the next early when the first is silent",
			ways: func(f *fakeWays) []Way {
				return []Way{f.way("a", never, nil), f.way("b", 10*time.Millisecond, nil)}
			},
			want: "b", within: headStart + 10*time.Millisecond + preference, tried: []string{"a", "b"},
		},
		{
			name: "the earlier one where both answer",
			ways: func(f *fakeWays) []Way {
				return []Way{f.way("a", headStart+50*time.Millisecond, nil), f.way("b", time.Millisecond, nil)}
			},
			want: "a", within: headStart + 50*time.Millisecond, tried: []string{"a", "b"},
		},
		{
			name: "one that answers at once or never is not waited for long",
			ways: func(f *fakeWays) []Way {
				a := f.way("a", never, nil)
				a.HeadStart = 30 * time.Millisecond
				return []Way{a, f.way("b", 10*time.Millisecond, nil)}
			},
			want: "b", within: 70 * time.Millisecond, tried: []string{"a", "b"},
		},
		{
			name: "the last of three",
			ways: func(f *fakeWays) []Way {
				return []Way{f.way("a", never, nil), f.way("b", 0, errFake), f.way("c", 0, nil)}
			},
			want: "c", within: headStart + preference, tried: []string{"a", "b", "c"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeWays{}
				l := &Ladder{Ways: tt.ways(f)}
				begin := time.Now()
				conn, err := l.Dial(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if took := time.Since(begin); took != tt.within {
					t.Errorf("took %s, want %s", took, tt.within)
				}
				if got := conn.(*fakeConn).way; got != tt.want || l.Chosen() != tt.want {
					t.Errorf("way %s, chosen %s, want %s", got, l.Chosen(), tt.want)
				}
				synctest.Wait()
				f.mu.Lock()
				defer f.mu.Unlock()
				if !slices.Equal(f.tried, tt.tried) {
					t.Errorf("tried %v, want %v", f.tried, tt.tried)
				}
				for _, c := range f.conns {
					if c.closed != (c != conn) {
						t.Errorf("connection by %s: closed %t", c.way, c.closed)
					}
				}
			})
		})
	}
}

func TestLadderWrongHostLoses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeWays{}
		wrong := errors.New("certificate is for somebody else")
		l := &Ladder{
			Ways: []Way{f.way("pod-ip", 0, nil), f.way("pod-proxy", time.Millisecond, nil)},
			Handshake: func(_ context.Context, conn net.Conn) (net.Conn, error) {
				if conn.(*fakeConn).way == "pod-ip" {
					_ = conn.Close()
					return nil, wrong
				}
				return conn, nil
			},
		}
		if _, err := l.Dial(t.Context()); err != nil {
			t.Fatal(err)
		}
		if l.Chosen() != "pod-proxy" {
			t.Errorf("chose %s", l.Chosen())
		}
	})
}

func TestLadderRemembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeWays{}
		l := &Ladder{Ways: []Way{f.way("a", 0, errFake), f.way("b", 0, nil)}}
		for range 2 {
			if _, err := l.Dial(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if want := []string{"a", "b", "b"}; !slices.Equal(f.tried, want) {
			t.Errorf("tried %v, want %v", f.tried, want)
		}
	})
}

func TestPreferring(t *testing.T) {
	ways := []Way{{Name: "ip"}, {Name: "proxy"}, {Name: "spdy"}}
	for _, c := range []struct{ name, want string }{
		{"spdy", "spdy ip proxy"},
		{"ip", "ip proxy spdy"},
		{"another", "ip proxy spdy"},
		{"", "ip proxy spdy"},
	} {
		var names []string
		for _, w := range Preferring(c.name, ways) {
			names = append(names, w.Name)
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("%q preferred: %s, want %s", c.name, got, c.want)
		}
	}
	if ways[0].Name != "ip" {
		t.Error("the caller's list was changed")
	}
}

func TestLadderNamesEachFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeWays{}
		forbidden := errors.New("pods \"x\" is forbidden")
		l := &Ladder{Ways: []Way{f.way("a", 0, forbidden), f.way("b", time.Hour, nil)}}
		_, err := l.Dial(t.Context())
		if !errors.Is(err, forbidden) {
			t.Fatalf("got %v, want it to wrap %v", err, forbidden)
		}
		for _, part := range []string{"a: pods \"x\" is forbidden", "b: no answer within 3s"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q lacks %q", err, part)
			}
		}
		if l.Chosen() != "" {
			t.Errorf("chose %s", l.Chosen())
		}
	})
}

func TestLadderEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeWays{}
		l := &Ladder{Ways: []Way{f.way("a", time.Hour, nil)}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.Dial(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestLadderWithoutWays(t *testing.T) {
	if _, err := (&Ladder{}).Dial(t.Context()); err == nil {
		t.Error("no error")
	}
}

func TestPodIP(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	way := PodIP(netip.MustParseAddrPort(lis.Addr().String()))
	conn, err := way.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if way.Name != "pod-ip" {
		t.Errorf("name %s", way.Name)
	}
}

// TestPodIPWaitsUntilThePodListens has an agent that has just been started.
func TestPodIPWaitsUntilThePodListens(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	for name, tc := range map[string]struct {
		err   error
		tries int
		dials int // expected
		want  error
	}{
		"soon":         {refused, 3, 3, nil},
		"never":        {refused, 1000, int(refusedPatience / refusedPause), syscall.ECONNREFUSED},
		"no way there": {syscall.EHOSTUNREACH, 3, 1, syscall.EHOSTUNREACH},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dials := 0
				conn, err := whenListening(t.Context(), func(context.Context) (net.Conn, error) {
					if dials++; dials < tc.tries {
						return nil, tc.err
					}
					return &net.TCPConn{}, nil
				})
				if !errors.Is(err, tc.want) || (conn == nil) != (tc.want != nil) || dials < tc.dials || dials > tc.dials+1 {
					t.Errorf("%d dials, %v; want %d, %v", dials, err, tc.dials, tc.want)
				}
			})
		})
	}
}
