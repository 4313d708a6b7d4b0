package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/kube"
)

// forwardForm is how a forward is written.
const forwardForm = "it is written [KIND/]NAME[.NAMESPACE]:PORT[:LOCAL][/udp], for example service-b:5100, service-b:http:8080 or pod/web-0:53:0/udp"

// forward is a port of this machine that leads to something in the cluster.
type forward struct {
	kind, name, namespace, port string
	udp                         bool
	local                       uint16 // 0: any that is free
	same                        bool   // the destination's own port, whatever that is
}

// parseForward reads [KIND/]NAME[.NAMESPACE]:PORT[:LOCAL][/udp]. Its errors are for a message that names the text.
func parseForward(text string) (forward, error) {
	f := forward{same: true}
	rest := text
	// Behind the first colon a slash begins the protocol; in front of it, it ends the kind.
	if colon, slash := strings.IndexByte(text, ':'), strings.LastIndexByte(text, '/'); colon >= 0 && slash > colon {
		_, udp, err := cutProtocol(text[colon:], forwardForm)
		if err != nil {
			return forward{}, err
		}
		rest, f.udp = text[:slash], udp
	}
	parts := strings.Split(rest, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || parts[1] == "" {
		return forward{}, errors.New(forwardForm)
	}
	f.port = parts[1]
	if n, err := strconv.Atoi(f.port); err == nil && (n < 1 || n > 65535) {
		return forward{}, fmt.Errorf("there is no port %s, they are 1 to 65535; %s", f.port, forwardForm)
	}
	if len(parts) == 3 {
		f.same = false
		if parts[2] != "0" {
			local, err := parsePort(parts[2], forwardForm)
			if err != nil {
				return forward{}, err
			}
			f.local = local
		}
	}
	kind, name, hasKind := strings.Cut(parts[0], "/")
	if !hasKind {
		kind, name = "", parts[0]
	}
	if name == "" || strings.Contains(name, "/") || hasKind && kind == "" {
		return forward{}, errors.New(forwardForm)
	}
	f.kind, f.name = kind, name
	if kind == "" || strings.HasPrefix("services", strings.ToLower(kind)) || kind == "svc" {
		return f.ofService()
	}
	return f, nil
}

// ofService reads a Service's name as programs in the cluster write it: NAME, NAME.NAMESPACE, NAME.NAMESPACE.svc and so on.
func (f forward) ofService() (forward, error) {
	name, rest, dotted := strings.Cut(strings.TrimSuffix(f.name, "."), ".")
	if !dotted {
		return f, nil
	}
	namespace, domain, more := strings.Cut(rest, ".")
	if name == "" || namespace == "" || more && domain != "svc" && !strings.HasPrefix(domain, "svc.") {
		return forward{}, fmt.Errorf("%q is no name of a Service; %s", f.name, forwardForm)
	}
	f.name, f.namespace = name, namespace
	return f, nil
}

func (f forward) api() *api.Forward {
	return &api.Forward{
		Kind: f.kind, Name: f.name, Namespace: f.namespace, Port: f.port, Udp: f.udp, Address: "127.0.0.1", Local: uint32(f.local), SamePort: f.same,
	}
}

// parseForwards reads a command line's forwards. Each port of this machine may be given once.
func parseForwards(texts []string) ([]*api.Forward, error) {
	var all []*api.Forward
	first := map[string]string{}
	for _, text := range texts {
		f, err := parseForward(text)
		if err != nil {
			return nil, usage("forward %s: %v", orQuotes(text), err)
		}
		key := strconv.Itoa(int(f.local)) + udpSuffix(f.udp)
		if f.same {
			key = f.port + udpSuffix(f.udp)
		}
		if before, twice := first[key]; twice && (f.same || f.local != 0) {
			return nil, usage("port %s of this machine is given twice, by %s and %s; name another behind one of them, as in %s:%s:0", key, before, text, f.name, f.port)
		}
		first[key] = text
		all = append(all, f.api())
	}
	return all, nil
}

func (a *app) forwardCommand() *cobra.Command {
	var agent agentFlags
	var detach bool
	cmd := &cobra.Command{
		Use:   "forward [KIND/]NAME[.NAMESPACE]:PORT[:LOCAL][/udp]…",
		Short: "Lead ports of this machine to Services and pods",
		Long: `Leads ports of this machine's 127.0.0.1 to Services, or to pods, deployments and so on if their kind is named. PORT is a number or a
port's name; LOCAL is the same number if left away, and 0 takes any that is free.

Each connection goes to what is Ready then: pods may be started again and replaced, and the way to the cluster may break. Connections that come
meanwhile wait, 30 s at most; those that were open when their pod or the way to it went are reset. What a pod or a Service listens on is reached, not
only what a pod's container declares.`,
		Example: "  teleswap forward service-b:5100\n  teleswap forward postgres.data:5432:15432 redis:6379\n" +
			"  teleswap forward deployment/web:http:8080 pod/web-0:9000:0\n  teleswap forward kube-dns.kube-system:53:5353/udp -d",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("%s needs to know what a port is to lead to: %s", cmd.CommandPath(), forwardForm)
			}
			return nil
		},
		ValidArgsFunction: a.completeForwards,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkValues(cmd.Flags()); err != nil {
				return err
			}
			forwards, err := parseForwards(args)
			if err != nil {
				return err
			}
			req, err := agent.request(a)
			if err != nil {
				return err
			}
			req.Forwards = forwards
			return a.useHereOrBehind(cmd.Context(), detach, req, useWords{ending: "ending", active: func(ui *progress, m *api.Active, end string) error {
				for i, p := range m.GetPublished() {
					ui.line("forwarding: %s%s leads to %s", net.JoinHostPort(p.GetAddress(), strconv.Itoa(int(p.GetPort()))), udpSuffix(p.GetUdp()), forwardText(forwards[i]))
				}
				ui.line("· %s ends it", end)
				return nil
			}})
		},
	}
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "give the terminal back once the ports are open, and print the session's id; teleswap leave ends it")
	agent.add(cmd)
	return cmd
}

// completeForwards offers the Services of the namespace, up to the port.
func (a *app) completeForwards(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	const silent = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	conn, err := a.kube.plainConnection()
	if err != nil || strings.ContainsAny(word, ":/") {
		return nil, silent
	}
	c, err := kube.Connect(conn, kube.Config{Version: version})
	if err != nil { // a shell is no place for errors
		return nil, silent
	}
	defer closeQuietly(c)
	ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
	defer cancel()
	names, err := c.ServiceNames(ctx)
	if err != nil {
		return nil, silent
	}
	var offered []string
	for _, name := range names {
		if !strings.Contains(name, ".") || strings.Contains(word, ".") {
			offered = append(offered, name+":")
		}
	}
	return offered, silent
}

// forwardText is a forward's destination, for people.
func forwardText(f *api.Forward) string {
	text := f.GetName()
	if f.GetNamespace() != "" {
		text += "." + f.GetNamespace()
	}
	if f.GetKind() != "" {
		text = f.GetKind() + "/" + text
	}
	return text + ":" + f.GetPort()
}
