package main

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/teleswap/teleswap/daemon/api"
)

const (
	// proxyDefault is where a proxy is, if nobody says.
	proxyDefault = "127.0.0.1:1080"
	// proxyAuthVariable holds USER:PASSWORD for a proxy.
	proxyAuthVariable = "TELESWAP_PROXY_AUTH"
	proxyForm         = "it is written [ADDRESS:]PORT, for example 1080 or 127.0.0.1:1080; an IPv6 address stands in brackets"
)

// proxyFlags ask for a proxy into the cluster.
type proxyFlags struct{ at, authFile string }

func (p *proxyFlags) add(f *pflag.FlagSet) {
	f.StringVar(&p.at, "proxy", "", "instead of a command: a proxy into the cluster at `[ADDRESS:]PORT` of this machine, SOCKS 5 and HTTP on one port,\n"+
		"names looked up in the cluster; "+proxyDefault+" if left away, port 0 any that is free")
	f.Lookup("proxy").NoOptDefVal = proxyDefault
	f.StringVar(&p.authFile, "proxy-auth", "", "of --proxy: a `FILE`, readable to you alone, with a line USER:PASSWORD that clients must give\n"+
		"(or "+proxyAuthVariable+"=USER:PASSWORD)")
}

// on says whether a proxy is asked for; args are what stands on the line besides flags: the address, perhaps.
func (p *proxyFlags) on(f *pflag.FlagSet, args []string, dash int) (bool, error) {
	if !f.Changed("proxy") {
		if p.authFile != "" {
			return false, usage("--proxy-auth: it is for --proxy, which is not given")
		}
		return false, nil
	}
	switch {
	case dash >= 0:
		return false, usage("--proxy and a command: give one of them; a command reaches the cluster without a proxy")
	case len(args) == 1 && p.at == proxyDefault:
		p.at = args[0]
	case len(args) > 0:
		return false, usage("--proxy %s: %q stands behind it; %s", p.at, args[len(args)-1], proxyForm)
	}
	return true, nil
}

// parseProxy reads [ADDRESS:]PORT.
func parseProxy(text string) (netip.AddrPort, error) {
	host, port := "127.0.0.1", text
	if i := strings.LastIndexByte(text, ':'); i >= 0 {
		port = text[i+1:]
		if given := text[:i]; given != "" {
			host = strings.TrimSuffix(strings.TrimPrefix(given, "["), "]")
		}
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	addr, err := netip.ParseAddr(host)
	if err != nil || addr.Zone() != "" || addr.Is6() && !strings.HasPrefix(text, "[") {
		return netip.AddrPort{}, usage("--proxy %s: %q is no address; %s", orQuotes(text), host, proxyForm)
	}
	if port == "0" {
		return netip.AddrPortFrom(addr.Unmap(), 0), nil
	}
	n, err := parsePort(port, proxyForm)
	if err != nil {
		return netip.AddrPort{}, usage("--proxy %s: %v", orQuotes(text), err)
	}
	return netip.AddrPortFrom(addr.Unmap(), n), nil
}

// proxyAuth is what clients of the proxy must give, and how a shell can read it without its standing on a line.
type proxyAuth struct{ user, password, inShell string }

// auth reads the user and the password, if there are any.
func (p *proxyFlags) auth(getenv func(string) string) (proxyAuth, error) {
	text, from, inShell := getenv(proxyAuthVariable), proxyAuthVariable, "$"+proxyAuthVariable
	if p.authFile != "" {
		data, err := readPrivate(p.authFile)
		if err != nil {
			return proxyAuth{}, usage("--proxy-auth %s: %v", p.authFile, err)
		}
		text, from, inShell = strings.TrimRight(string(data), "\r\n"), "--proxy-auth "+p.authFile, "$(cat "+shellWord(p.authFile)+")"
	}
	if text == "" && p.authFile == "" {
		return proxyAuth{}, nil
	}
	user, password, both := strings.Cut(text, ":")
	if !both || user == "" || password == "" || strings.ContainsAny(text, "\r\n") || len(user) > 255 || len(password) > 255 {
		// The text itself may be the password.
		return proxyAuth{}, usage("%s: it is to be one line USER:PASSWORD, each of 1 to 255 bytes", from)
	}
	if url.UserPassword(user, password).String() != text {
		inShell = "" // as it stands it is in no URL
	}
	return proxyAuth{user, password, inShell}, nil
}

// readPrivate reads a file that nobody else may read.
func readPrivate(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("others may read it (mode %04o): chmod 600 %s", mode, file)
	}
	return os.ReadFile(file)
}

// plainWord is what no shell reads anything into.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9/._+:,@-]+$`)

// shellWord is a text as a word of a shell.
func shellWord(text string) string {
	if plainWord.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// put checks the flags and writes them into the request.
func (p *proxyFlags) put(req *api.ConnectRequest, getenv func(string) string) (proxyAuth, error) {
	at, err := parseProxy(p.at)
	if err != nil {
		return proxyAuth{}, err
	}
	auth, err := p.auth(getenv)
	if err != nil {
		return proxyAuth{}, err
	}
	req.Proxy = &api.Proxy{Address: at.Addr().String(), Port: uint32(at.Port()), User: auth.user, Password: auth.password}
	return auth, nil
}

// connectProxy opens a proxy into the cluster; command is what --run took.
func (a *app) connectProxy(cmd *cobra.Command, o *connectOptions, command []string) error {
	for _, name := range []string{"never-proxy", "allow-conflicts", "map", "mapped-namespaces", "also-proxy"} {
		if cmd.Flags().Changed(name) {
			return usage("--%s: everything that is asked of a proxy goes into the cluster; leave it out", name)
		}
	}
	if len(command) > 0 || o.shell {
		return usage("--proxy and a command: give one of them; a command reaches the cluster without a proxy")
	}
	req, err := o.agent.request(a)
	if err != nil {
		return err
	}
	auth, err := o.proxy.put(req, os.Getenv)
	if err != nil {
		return err
	}
	return a.useHereOrBehind(cmd.Context(), o.whole.detach, req, useWords{ending: "ending", active: a.proxyLines(auth)})
}

// proxyLines tell of a proxy that stands; the one for a shell goes to standard output.
func (a *app) proxyLines(auth proxyAuth) func(*progress, *api.Active, string) error {
	return func(ui *progress, m *api.Active, end string) error {
		if len(m.GetPublished()) == 0 {
			return fmt.Errorf("the daemon does not say where the proxy is; its log: %s", a.paths.Log)
		}
		p := m.GetPublished()[0]
		host := p.GetAddress()
		if addr, err := netip.ParseAddr(host); err == nil && addr.IsUnspecified() {
			host = "127.0.0.1"
		}
		at := net.JoinHostPort(host, strconv.Itoa(int(p.GetPort())))
		ui.line("· a proxy into the cluster, SOCKS 5 and HTTP, is at %s; browsers take their settings from http://%s/proxy.pac; %s ends it", at, at, end)
		line := "export ALL_PROXY=socks5h://" + at
		switch {
		case auth.user == "":
		case auth.inShell != "":
			line = fmt.Sprintf(`export ALL_PROXY="socks5h://%s@%s"`, auth.inShell, at)
		default:
			ui.line("· the user and the password belong before the @, each sign that is not a letter or a digit as %%XX")
			line = "export ALL_PROXY=socks5h://USER:PASSWORD@" + at
		}
		_, err := fmt.Fprintln(a.out, line)
		return err
	}
}
