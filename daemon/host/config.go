package host

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
)

const (
	// device is our network device's name.
	device = devicePrefix + "0"
	// devicePrefix begins the names of our devices.
	devicePrefix = "teleswap"
	// resolvers is how many loopback addresses are tried for our resolver.
	resolvers = 4
)

// Cluster is the way into a cluster.
type Cluster interface {
	// DialContext connects to an address of the cluster's; network is tcp or udp.
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	// Ping sends one echo request, and returns nil when the reply came.
	Ping(ctx context.Context, dst netip.Addr, payload []byte) error
	// Exchange has the cluster's resolver answer a DNS message.
	Exchange(ctx context.Context, msg []byte) ([]byte, error)
}

// Config is what a machine is connected to, and how. All fields without a stated zero are needed.
type Config struct {
	Session, About string // id, and a line for people
	Cluster        Cluster
	// Namespace is the one in which a Service is called by its name alone; Namespaces those in which it is called SERVICE.NAMESPACE
	// (empty: by the search domains only).
	Namespace  string
	Namespaces []string
	// Search are a pod's search domains.
	Search []string
	// Ranges are the cluster's addresses. Also are further ones that go through it, Never those that do not; both may be names, too.
	Ranges                []netip.Prefix
	Also, Never           []netip.Prefix
	AlsoNames, NeverNames []string
	// Reserved are addresses by which the cluster itself is reached.
	Reserved []netip.Prefix
	// Agent says whether an address is that of the tunnel's other end, which must not be looked for in the tunnel. Nil: nobody knows.
	Agent func(netip.AddrPort) bool
	// AllowConflicts and Map are as Wish's.
	AllowConflicts bool
	Map            netip.Prefix
	Logger         *slog.Logger // nil discards
}

// Told takes progress: a step has begun (detail empty), or is done. It is called by one goroutine.
type Told func(step, detail string, done bool)

// ErrWardenGone says that the machine was not put back as it should.
var ErrWardenGone = errors.New("root's part of the connection was killed: what it changed is put back by the next `teleswap` command")

// firstResolver is the first loopback address that is tried for our resolver.
func firstResolver() netip.Addr { return netip.AddrFrom4([4]byte{127, 84, 83, 53}) }

// ours says whether an address is one that our resolver may have.
func ours(a netip.Addr) bool {
	return firstResolver().Compare(a) <= 0 && netip.AddrFrom4([4]byte{127, 84, 83, 53 + resolvers}).Compare(a) > 0
}
