package session

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/proxy/tunnel"
)

// mapped serves ports of the target by other ports of the process.
type mapped struct {
	served
	maps []kube.PortMap
}

// DialTCP implements served.
func (m mapped) DialTCP(ctx context.Context, client, local netip.AddrPort) (net.Conn, error) {
	return m.served.DialTCP(ctx, client, m.inside(local, false))
}

// DialUDP implements served.
func (m mapped) DialUDP(ctx context.Context, client, local netip.AddrPort) (net.Conn, error) {
	return m.served.DialUDP(ctx, client, m.inside(local, true))
}

// inside is where the process listens for what was called at local.
func (m mapped) inside(local netip.AddrPort, udp bool) netip.AddrPort {
	for _, p := range m.maps {
		if p.UDP == udp && p.Remote == int32(local.Port()) {
			return netip.AddrPortFrom(local.Addr(), uint16(p.Local))
		}
	}
	return local
}

// allPorts are the target's ports, each with the process's that it leads to, TCP first.
func allPorts(t *kube.Target) []kube.PortMap {
	all := make([]kube.PortMap, 0, len(t.Listen)+len(t.ListenUDP))
	for _, udp := range []bool{false, true} {
		remotes := t.Listen
		if udp {
			remotes = t.ListenUDP
		}
		for _, remote := range remotes {
			m := kube.PortMap{Local: remote, Remote: remote, UDP: udp}
			same := func(other kube.PortMap) bool { return other.Remote == remote && other.UDP == udp }
			if i := slices.IndexFunc(t.Maps, same); i >= 0 {
				m = t.Maps[i]
			}
			all = append(all, m)
		}
	}
	return all
}

// checkPorts fails where the agent could not listen on a port that the user has asked for. Others are
// warned of: the target was as it is before.
func checkPorts(ref kube.Ref, states []*tunnel.PortState) error {
	for _, st := range states {
		p := kube.Port{Number: int32(st.GetPort()), UDP: st.GetProtocol() == "udp"}
		if st.GetError() == "" {
			continue
		}
		flag := ""
		for _, e := range ref.Expose {
			if p == (kube.Port{Number: e.Remote, UDP: e.UDP}) {
				flag = "--expose " + e.String()
			}
		}
		if slices.Contains(ref.FromPod, p) {
			flag = "--from-pod " + p.String()
		}
		if flag != "" {
			return &kube.PortError{
				Flag: flag, Reason: fmt.Sprintf("the agent cannot listen on port %s of the pod: %s", p, st.GetError()),
				Hint: "another container of the pod may have it; choose a port that is free there",
			}
		}
	}
	return nil
}

// mapsText says what the target's ports are, and where they lead to.
func mapsText(all []kube.PortMap) string {
	texts := make([]string, 0, len(all))
	for _, m := range all {
		text := kube.Port{Number: m.Remote, UDP: m.UDP}.String()
		if m.Local != m.Remote {
			text += fmt.Sprintf(" (the process's %d)", m.Local)
		}
		texts = append(texts, text)
	}
	switch len(texts) {
	case 0:
		return "no ports"
	case 1:
		return "port " + texts[0]
	}
	return "ports " + strings.Join(texts, ", ")
}

// exposeHint is how to lead the one port that is waited for to the one that the process listens on instead; empty
// where that is not the matter.
func exposeHint(missing, others []port, maps []kube.PortMap) string {
	if len(missing) != 1 || len(others) != 1 || missing[0].udp != others[0].udp {
		return ""
	}
	e := kube.PortMap{Local: others[0].number, Remote: missing[0].number, UDP: missing[0].udp}
	for _, m := range maps {
		if m.UDP == e.UDP && m.Local == missing[0].number {
			e.Remote = m.Remote
		}
	}
	return fmt.Sprintf(" --expose %s leads the target's port to it", e)
}
