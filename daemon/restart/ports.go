package restart

import (
	"strings"
	"sync"
	"time"

	"github.com/teleswap/teleswap/proxy/procnet"
)

const (
	// look is how often it is looked whether the process listens again, at most; it takes the kernel some milliseconds, so
	// it waits lookRest times as long as the last look took.
	look     = 20 * time.Millisecond
	lookRest = 4
)

// Listens tells the sockets that listen where the process is.
type Listens interface {
	Listening() ([]procnet.Socket, error)
}

// ports are the TCP ports that something listens on. However many ask, the table is read once each look. Safe for concurrent
// use; who asks while it is read waits.
type ports struct {
	mu     sync.Mutex
	at     Listens // nil: not yet
	looked time.Time
	took   time.Duration
	open   map[uint16]struct{} // what listened then; nil: look again
}

func (p *ports) attach(at Listens) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = at
}

// forget makes the next question a new look.
func (p *ports) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = nil
}

// has tells whether something listens on a port.
func (p *ports) has(port uint16) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at == nil {
		return false
	}
	if p.open == nil || time.Since(p.looked) >= max(look, lookRest*p.took) {
		began := time.Now()
		sockets, err := p.at.Listening()
		if err != nil {
			return false
		}
		p.looked, p.took, p.open = began, time.Since(began), map[uint16]struct{}{}
		for _, s := range sockets {
			if strings.HasPrefix(s.Network, "tcp") {
				p.open[s.Addr.Port()] = struct{}{}
			}
		}
	}
	_, does := p.open[port]
	return does
}
