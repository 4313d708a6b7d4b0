package session

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

// askedFor is a served that notes where it was to connect.
type askedFor struct {
	served
	tcp, udp netip.AddrPort
}

func (a *askedFor) DialTCP(_ context.Context, _, local netip.AddrPort) (net.Conn, error) {
	a.tcp = local
	return nil, errors.ErrUnsupported
}

func (a *askedFor) DialUDP(_ context.Context, _, local netip.AddrPort) (net.Conn, error) {
	a.udp = local
	return nil, errors.ErrUnsupported
}

func TestMapped(t *testing.T) {
	a := &askedFor{}
	m := mapped{a, []kube.PortMap{{Local: 8080, Remote: 80}, {Local: 5353, Remote: 53, UDP: true}}}
	for _, c := range []struct{ called, tcp, udp string }{
		{"10.244.0.9:80", "10.244.0.9:8080", "10.244.0.9:80"},
		{"127.0.0.1:53", "127.0.0.1:53", "127.0.0.1:5353"},
		{"[::1]:8080", "[::1]:8080", "[::1]:8080"},
	} {
		local := netip.MustParseAddrPort(c.called)
		_, _ = m.DialTCP(t.Context(), someClient, local)
		_, _ = m.DialUDP(t.Context(), someClient, local)
		if a.tcp.String() != c.tcp || a.udp.String() != c.udp {
			t.Errorf("%s leads to %s and by UDP to %s, want %s and %s", c.called, a.tcp, a.udp, c.tcp, c.udp)
		}
	}
}

func TestMapsText(t *testing.T) {
	for want, target := range map[string]*kube.Target{
		"no ports":  {},
		"port 8080": {Listen: []int32{8080}},
		"ports 80 (the process's 8080), 81, 53/udp (the process's 80)": {
			Listen: []int32{80, 81}, ListenUDP: []int32{53},
			Maps: []kube.PortMap{{Local: 8080, Remote: 80}, {Local: 80, Remote: 53, UDP: true}},
		},
	} {
		if got := mapsText(allPorts(target)); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestCheckPorts(t *testing.T) {
	states := []*tunnel.PortState{
		{Port: 80, Protocol: "tcp"},
		{Port: 81, Protocol: "tcp", Error: "address already in use"},
		{Port: 82, Protocol: "udp", Error: "address already in use"},
	}
	for _, c := range []struct {
		name string
		ref  kube.Ref
		want string // empty: none of it was asked for
	}{
		{"nothing asked for", kube.Ref{}, ""},
		{"others", kube.Ref{Expose: []kube.PortMap{{Local: 81, Remote: 80}}, FromPod: []kube.Port{{Number: 82}, {Number: 81, UDP: true}}}, ""},
		{"exposed", kube.Ref{Expose: []kube.PortMap{{Local: 8081, Remote: 81}}}, "--expose 8081:81: the agent cannot listen on port 81 of the pod: address already in use"},
		{"from the pod", kube.Ref{FromPod: []kube.Port{{Number: 82, UDP: true}}}, "--from-pod 82/udp: the agent cannot listen on port 82/udp"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := checkPorts(c.ref, states)
			if (err != nil) != (c.want != "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestMissingText(t *testing.T) {
	maps := []kube.PortMap{{Local: 8080, Remote: 80}, {Local: 81, Remote: 81}}
	for _, c := range []struct {
		name          string
		missing, have []port
		want, never   string
	}{
		{"nothing", []port{{number: 8080}}, nil, "nothing listens on port 8080 yet", "the process listens"},
		{"another port", []port{{number: 81}}, []port{{number: 3000}}, "--expose 3000:81 leads", "8080"},
		{"instead of one that is mapped", []port{{number: 8080}}, []port{{number: 3000}}, "--expose 3000:80 leads", "3000:8080"},
		{"two that are not there", []port{{number: 81}, {number: 8080}}, []port{{number: 3000}}, "the process listens on 3000", "--expose"},
		{"by UDP", []port{{53, true}}, []port{{5353, true}}, "--expose 5353:53/udp leads", "8080"},
		{"by the other protocol", []port{{53, true}}, []port{{number: 53}}, "the process listens on 53", "--expose"},
		{"two to choose from", []port{{number: 81}}, []port{{number: 3000}, {number: 3001}}, "the process listens on 3000, 3001", "--expose"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := missingText(c.missing, c.have, maps)
			if !strings.Contains(got, c.want) || strings.Contains(got, c.never) {
				t.Errorf("got %q, want %q and not %q", got, c.want, c.never)
			}
		})
	}
}
