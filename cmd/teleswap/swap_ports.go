package main

import (
	"net"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/teleswap/teleswap/daemon/api"
)

// portFlags are the flags of swap that say which ports lead where.
type portFlags struct{ expose, publish, toPod, fromPod []string }

func (p *portFlags) add(f *pflag.FlagSet) {
	f.StringArrayVar(&p.expose, "expose", nil, "lead the target's port REMOTE to the process's LOCAL, `LOCAL[:REMOTE][/udp]`;\n"+
		"adds the port if the target has none of it (repeatable)")
	f.StringArrayVar(&p.publish, "publish", nil, "lead this machine's PORT to the process's INSIDE, `[ADDRESS:]PORT[:INSIDE][/udp]`,\n"+
		"for a browser or a debugger; ADDRESS is 127.0.0.1, PORT 0 any that is free (repeatable)")
	f.StringArrayVar(&p.toPod, "to-pod", nil, "lead the process's 127.0.0.1:PORT to the pod's, `PORT[/udp]`; what the pod's other\n"+
		"containers are seen to listen on is there without it (repeatable)")
	f.StringArrayVar(&p.fromPod, "from-pod", nil, "lead the pod's 127.0.0.1:PORT to the process, `PORT[/udp]`, for the pod's other\n"+
		"containers alone; the target's own ports do without it (repeatable)")
}

// complete has the shell offer no files where ports belong.
func (p *portFlags) complete(cmd *cobra.Command) {
	for _, flag := range []string{"expose", "publish", "to-pod", "from-pod"} {
		if err := cmd.RegisterFlagCompletionFunc(flag, cobra.NoFileCompletions); err != nil {
			cobra.CompErrorln(err.Error())
		}
	}
}

// put checks the flags and writes them into the request.
func (p *portFlags) put(req *api.SwapRequest) error {
	exposes, err := parseExposes(p.expose)
	if err != nil {
		return err
	}
	publishes, err := parsePublishes(p.publish)
	if err != nil {
		return err
	}
	toPod, err := parseNumbers("--to-pod", p.toPod)
	if err != nil {
		return err
	}
	fromPod, err := parseNumbers("--from-pod", p.fromPod)
	if err != nil {
		return err
	}
	for _, e := range exposes {
		req.Expose = append(req.Expose, &api.PortMap{Local: uint32(e.local), Remote: uint32(e.remote), Udp: e.udp})
	}
	for _, b := range publishes {
		req.Publish = append(req.Publish, b.api())
	}
	for _, n := range toPod {
		req.ToPod = append(req.ToPod, &api.Port{Number: uint32(n.number), Udp: n.udp})
	}
	for _, n := range fromPod {
		req.FromPod = append(req.FromPod, &api.Port{Number: uint32(n.number), Udp: n.udp})
	}
	return nil
}

func (p publish) api() *api.Publish {
	return &api.Publish{Address: p.addr.String(), Port: uint32(p.port), Inside: uint32(p.inside), Udp: p.udp}
}

// portOutput is a port of a target in status, and the process's that it leads to.
type portOutput struct {
	Port     uint32 `json:"port"`
	Process  uint32 `json:"process"`
	Protocol string `json:"protocol"`
}

// publishedOutput is a port of this machine in status.
type publishedOutput struct {
	Address  string `json:"address"`
	Port     uint32 `json:"port"`
	Process  uint32 `json:"process"`
	Protocol string `json:"protocol"`
}

func protocolText(udp bool) string {
	if udp {
		return "udp"
	}
	return "tcp"
}

func (s *sessionOutput) addPorts(from *api.Session) {
	for _, p := range from.GetPorts() {
		s.Ports = append(s.Ports, portOutput{Port: p.GetRemote(), Process: p.GetLocal(), Protocol: protocolText(p.GetUdp())})
	}
	if from.GetConnects() { // whose ports lead elsewhere, as its changes say
		return
	}
	for _, p := range from.GetPublished() {
		s.Published = append(s.Published, publishedOutput{
			Address: p.GetAddress(), Port: p.GetPort(), Process: p.GetInside(), Protocol: protocolText(p.GetUdp()),
		})
	}
}

// portLines says which ports of a session lead to ports of another number, and which are at this machine's addresses.
func (s sessionOutput) portLines() string {
	var lines strings.Builder
	line := func(from string, process uint32, protocol string) {
		lines.WriteString("\n" + s.ID + ": " + from + " leads to the process's " + portNumber{uint16(process), protocol == "udp"}.String())
	}
	for _, p := range s.Ports {
		if p.Port != p.Process {
			line("the target's port "+portNumber{number: uint16(p.Port)}.String(), p.Process, p.Protocol)
		}
	}
	for _, p := range s.Published {
		line("this machine's "+net.JoinHostPort(p.Address, strconv.Itoa(int(p.Port))), p.Process, p.Protocol)
	}
	return lines.String()
}
