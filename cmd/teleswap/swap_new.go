package main

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/docker"
	"github.com/teleswap/teleswap/daemon/kube"
)

// newFlags ask for a Deployment that was not there, instead of a target.
type newFlags struct{ name, serviceAccount string }

func (n *newFlags) add(f *pflag.FlagSet) {
	f.StringVar(&n.name, "new", "", "instead of a target: a Deployment `NAME` (or NAME:CONTAINER) that is made for the command and taken\n"+
		"away at its end, with a Service of that name which has the ports of --expose")
	f.StringVar(&n.serviceAccount, "serviceaccount", "", "of --new: the ServiceAccount that the command is to have; the namespace's default if left away")
}

func (n *newFlags) complete(cmd *cobra.Command) {
	for _, flag := range []string{"new", "serviceaccount"} {
		if err := cmd.RegisterFlagCompletionFunc(flag, cobra.NoFileCompletions); err != nil {
			cobra.CompErrorln(err.Error())
		}
	}
}

// put checks the flags and writes them into the request. The name is the target's already.
func (n *newFlags) put(f *pflag.FlagSet, req *api.SwapRequest) error {
	made := n.name != ""
	if !made && f.Changed("serviceaccount") {
		return usage("--serviceaccount: a swapped target keeps its own; it is for what is made anew, by --new NAME")
	}
	for _, flag := range []string{"node", "order", "skip-init", "lifecycle-hooks"} {
		if made && f.Changed(flag) {
			return usage("--%s: what --new makes has nothing of the kind; leave it out", flag)
		}
	}
	req.New, req.ServiceAccount = made, n.serviceAccount
	return nil
}

// byImage names what is made after the image where docker run is given and nothing to swap.
func (n *newFlags) byImage(command []string) error {
	run, err := docker.Parse(command)
	if err != nil {
		return dockerError(err)
	}
	if n.name = kube.NewName(run.Image); n.name == "" {
		return usage("no Deployment can be named after image %s: name it by --new NAME, or name a target to swap", run.Image)
	}
	return nil
}

// parseNew reads NAME[:CONTAINER] of --new.
func parseNew(text string) (targetName, error) {
	name, container, hasContainer := strings.Cut(text, ":")
	if name == "" || hasContainer && container == "" || strings.Contains(name, "/") {
		return targetName{}, usage("--new %s: it is written NAME or NAME:CONTAINER; a Deployment is made, so no kind is named", text)
	}
	return targetName{"deployment", name, container}, nil
}
