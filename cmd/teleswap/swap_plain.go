package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/teleswap/teleswap/daemon/api"
)

// plainFlags say whether the command has a sandbox.
type plainFlags struct{ noSandbox bool }

func (o *plainFlags) add(f *pflag.FlagSet) {
	f.BoolVar(&o.noSandbox, "no-sandbox", !hasSandbox, "run the command in this machine's own network: calls arrive at 127.0.0.1, a proxy (HTTP_PROXY, ALL_PROXY) leads "+
		"to the cluster, the pod's files are below $TELESWAP_ROOT; on other systems than Linux always")
}

// check refuses what cannot be done, on this system or without a sandbox.
func (o plainFlags) check(ports *portFlags) (noSandbox bool, err error) {
	switch {
	case o.noSandbox && len(ports.publish) > 0:
		return true, usage("--publish: without a sandbox the process's ports are this machine's already; leave the flag away")
	case o.noSandbox && len(ports.toPod) > 0:
		return true, usage("--to-pod: without a sandbox 127.0.0.1 is this machine's own, where the pod's ports cannot be; " +
			"call the pod's address through the proxy, or leave --no-sandbox away")
	case !o.noSandbox && !hasSandbox:
		return true, usage("--no-sandbox=false: the sandbox is made of Linux namespaces, which this system does not have; leave the flag away")
	}
	return o.noSandbox, nil
}

// The names by which programs find a proxy. Most read either spelling, some only one.
var (
	httpProxies  = []string{"HTTP_PROXY", "HTTPS_PROXY"}
	socksProxies = []string{"ALL_PROXY"}
)

const noProxy = "NO_PROXY"

// withPlain adds what a process without a sandbox finds its pod by: the place of the files, and the proxy into the cluster
// where neither the user nor the pod has named one. Both hold below --env. say tells of the proxy.
func (e environment) withPlain(p *api.Prepare, local, pod []string, say func(format string, args ...any)) environment {
	known := map[string]bool{}
	for _, kv := range slices.Concat(local, pod, e.Set) {
		name, value, _ := strings.Cut(kv, "=")
		known[strings.ToUpper(name)] = value != ""
	}
	add := []string{"TELESWAP_ROOT=" + p.GetRoot(), "TELEPRESENCE_ROOT=" + p.GetRoot()}
	var given, kept []string
	set := func(name, value string) {
		if known[name] {
			kept = append(kept, name)
			return
		}
		given = append(given, name)
		add = append(add, name+"="+value, strings.ToLower(name)+"="+value)
	}
	for _, name := range httpProxies {
		set(name, "http://"+p.GetProxy())
	}
	for _, name := range socksProxies {
		set(name, "socks5h://"+p.GetProxy())
	}
	set(noProxy, "localhost,127.0.0.1,::1")
	_, at, _ := strings.Cut(p.GetProxy(), "@") // the password is the process's alone
	line := fmt.Sprintf("the process reaches the cluster by the proxy at %s", at)
	if len(given) > 0 {
		line += fmt.Sprintf(" (%s)", strings.Join(given, ", "))
	}
	if len(kept) > 0 {
		line += fmt.Sprintf("; %s set already", strings.Join(kept, ", ")+are(len(kept)))
	}
	say("· %s", line)
	e.Set = append(add, e.Set...)
	return e
}

func are(n int) string {
	if n == 1 {
		return " is"
	}
	return " are"
}
