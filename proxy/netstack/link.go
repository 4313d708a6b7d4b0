package netstack

import (
	"errors"
	"log/slog"
	"os"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/teleswap/teleswap/proxy/tun"
)

// smallPacket is the length in bytes up to which a received packet is copied into a view of its own, so that the
// long view it was read into can be used again.
const smallPacket = 2048

// link is the stack's end of the device. Packets are handed to the stack by the goroutine that reads them, and
// written by the goroutine that sends them: each further hop costs a wake-up, which is most of a round trip.
type link struct {
	dev    tun.Device
	mtu    uint32
	logger *slog.Logger
	echo   func(echo) // takes echo requests; the packet is only lent
	wg     sync.WaitGroup

	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher
	reading    bool
}

func newLink(dev tun.Device, logger *slog.Logger) *link {
	return &link{dev: dev, mtu: uint32(dev.MTU()), logger: logger, echo: func(echo) {}}
}

// readLoop delivers packets until the device is closed.
func (l *link) readLoop() {
	defer l.wg.Done()
	if err := l.receive(); !errors.Is(err, os.ErrClosed) {
		l.logger.Error("read from the sandbox's device", "err", err)
	}
}

func (l *link) receive() error {
	view := buffer.NewViewSize(int(l.mtu))
	defer func() { view.Release() }()
	for {
		n, err := l.dev.Read(view.AsSlice())
		if err != nil {
			return err
		}
		proto, ok := ipVersion(view.AsSlice()[:n])
		if !ok {
			continue
		}
		if request, is := parseEcho(view.AsSlice()[:n]); is {
			l.echo(request)
			continue
		}
		packet := view
		if n <= smallPacket {
			packet = buffer.NewViewWithData(append([]byte(nil), view.AsSlice()[:n]...))
		} else {
			packet.CapLength(n)
			view = buffer.NewViewSize(int(l.mtu))
		}
		l.deliver(proto, packet)
	}
}

func (l *link) deliver(proto tcpip.NetworkProtocolNumber, view *buffer.View) {
	l.mu.RLock()
	d := l.dispatcher
	l.mu.RUnlock()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(view)})
	defer pkt.DecRef()
	if d != nil {
		d.DeliverNetworkPacket(proto, pkt)
	}
}

// ipVersion tells the network protocol of a packet, and whether there is one.
func ipVersion(p []byte) (tcpip.NetworkProtocolNumber, bool) {
	switch header.IPVersion(p) {
	case header.IPv4Version:
		return header.IPv4ProtocolNumber, true
	case header.IPv6Version:
		return header.IPv6ProtocolNumber, true
	default:
		return 0, false
	}
}

// WritePackets implements stack.LinkWriter.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	n := 0
	for _, pkt := range pkts.AsSlice() {
		if err := l.dev.Write(pkt.AsSlices()); err != nil {
			if errors.Is(err, os.ErrClosed) {
				return n, &tcpip.ErrClosedForSend{}
			}
			l.logger.Debug("write to the sandbox's device", "err", err)
			return n, &tcpip.ErrInvalidEndpointState{}
		}
		n++
	}
	return n, nil
}

// Attach implements stack.NetworkLinkEndpoint. The first dispatcher starts the reading.
func (l *link) Attach(d stack.NetworkDispatcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dispatcher = d
	if d != nil && !l.reading {
		l.reading = true
		l.wg.Add(1)
		go l.readLoop()
	}
}

// IsAttached implements stack.NetworkLinkEndpoint.
func (l *link) IsAttached() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.dispatcher != nil
}

// MTU implements stack.NetworkLinkEndpoint.
func (l *link) MTU() uint32 { return l.mtu }

// SetMTU implements stack.NetworkLinkEndpoint. The device's does not change.
func (l *link) SetMTU(uint32) {}

// MaxHeaderLength implements stack.NetworkLinkEndpoint.
func (l *link) MaxHeaderLength() uint16 { return 0 }

// LinkAddress implements stack.NetworkLinkEndpoint.
func (l *link) LinkAddress() tcpip.LinkAddress { return "" }

// SetLinkAddress implements stack.NetworkLinkEndpoint.
func (l *link) SetLinkAddress(tcpip.LinkAddress) {}

// Capabilities implements stack.NetworkLinkEndpoint. What comes from the device was made on this machine and never
// crossed a wire: its checksums need no check.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}

// Wait implements stack.NetworkLinkEndpoint.
func (l *link) Wait() { l.wg.Wait() }

// ARPHardwareType implements stack.NetworkLinkEndpoint.
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }

// AddHeader implements stack.NetworkLinkEndpoint.
func (l *link) AddHeader(*stack.PacketBuffer) {}

// ParseHeader implements stack.NetworkLinkEndpoint.
func (l *link) ParseHeader(*stack.PacketBuffer) bool { return true }

// Close implements stack.NetworkLinkEndpoint.
func (l *link) Close() { _ = l.dev.Close() }

// SetOnCloseAction implements stack.NetworkLinkEndpoint.
func (l *link) SetOnCloseAction(func()) {}
