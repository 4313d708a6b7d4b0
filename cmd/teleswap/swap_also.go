package main

import (
	"net/netip"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/teleswap/teleswap/daemon/api"
)

// alsoFlags name destinations that are reached through the pod.
type alsoFlags struct{ all []string }

func (a *alsoFlags) add(f *pflag.FlagSet) {
	f.StringSliceVar(&a.all, "also-proxy", nil, "reach `HOST|ADDRESS|PREFIX` through the pod, although it is public or this machine's to reach (repeatable)")
}

func (a *alsoFlags) complete(cmd *cobra.Command) {
	if err := cmd.RegisterFlagCompletionFunc("also-proxy", cobra.NoFileCompletions); err != nil {
		cobra.CompErrorln(err.Error())
	}
}

// put checks the destinations and writes them into the request.
func (a *alsoFlags) put(req *api.SwapRequest) error {
	if err := checkDestinations("--also-proxy", a.all); err != nil {
		return err
	}
	req.AlsoProxy = a.all
	return nil
}

// checkDestinations refuses what no destination is written as.
func checkDestinations(flag string, all []string) error {
	for _, text := range all {
		_, prefixErr := netip.ParsePrefix(text)
		addr, addrErr := netip.ParseAddr(text)
		isAddr := addrErr == nil && addr.Zone() == ""
		if prefixErr != nil && !isAddr && (text == "" || strings.ContainsAny(text, "/: \t") || addrErr == nil) {
			return usage("%s %s: it is a host's name, an address, or a prefix as 10.1.0.0/16", flag, text)
		}
	}
	return nil
}
