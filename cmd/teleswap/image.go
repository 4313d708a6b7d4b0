package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/teleswap/teleswap/agentimage"
)

// imageFlags are what the ways to bring the agent's image into a cluster share.
type imageFlags struct{ ref, platform string }

func (o *imageFlags) addRef(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.ref, "ref", defaultImage(os.Getenv), "`NAME` that the image gets (also TELESWAP_AGENT_IMAGE)")
	completeNothing(cmd, "ref")
}

func (o *imageFlags) addPlatform(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.platform, "platform", "linux/"+runtime.GOARCH, "the nodes' `OS/ARCH`: linux/amd64 or linux/arm64")
	platforms := cobra.FixedCompletions([]string{"linux/amd64", "linux/arm64"}, cobra.ShellCompDirectiveNoFileComp)
	if err := cmd.RegisterFlagCompletionFunc("platform", platforms); err != nil {
		cobra.CompErrorln(err.Error())
	}
}

func completeNothing(cmd *cobra.Command, flags ...string) {
	for _, flag := range flags {
		if err := cmd.RegisterFlagCompletionFunc(flag, cobra.NoFileCompletions); err != nil {
			cobra.CompErrorln(err.Error())
		}
	}
}

func (a *app) imageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image {save | load | push}",
		Short: "Bring the agent's image into a cluster that cannot pull it",
		Long: `Teleswap carries its agent in itself: a cluster can have the agent's image from here.

The cluster pulls the image that swap's --agent-image (or TELESWAP_AGENT_IMAGE) names.
Where it cannot, ` + "`image load`" + ` puts the image under that name into the nodes of a kind,
minikube or k3d cluster or into a containerd; ` + "`image push`" + ` puts it into a registry that
the cluster reaches; ` + "`image save`" + ` writes it into a file, for every other way.`,
		Args: noSuchVerb,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.imageSaveCommand(), a.imageLoadCommand(), a.imagePushCommand())
	return cmd
}

// carriedAgents are the agents in this program, or what to do without them.
func carriedAgents() (agentimage.Agents, error) {
	agents, err := agentimage.Carried()
	if errors.Is(err, agentimage.ErrNone) {
		return nil, fmt.Errorf("%w\nuse a released teleswap, or build this one by `make build`", err)
	}
	return agents, err
}

func (a *app) imageSaveCommand() *cobra.Command {
	var o imageFlags
	cmd := &cobra.Command{
		Use:   "save FILE",
		Short: "Write the agent's image into a file, an OCI archive",
		Long: `Writes the agent's image as an OCI archive, which docker, podman, ctr and all others that
load images from files take. FILE - is standard output.`,
		Example: "  teleswap image save agent.tar\n  teleswap image save - | ssh node ctr -n k8s.io images import -",
		Args:    wantOne("a file to write, or - for standard output"),
		RunE: func(_ *cobra.Command, args []string) error {
			agents, err := carriedAgents()
			if err != nil {
				return err
			}
			if args[0] == "-" {
				if term.IsTerminal(int(a.out.Fd())) {
					return usage("an archive is nothing for a terminal: name a file, or pipe it into a program that loads it")
				}
				return agents.Save(a.out, o.ref, o.platform)
			}
			if err := writeFile(args[0], func(w io.Writer) error { return agents.Save(w, o.ref, o.platform) }); err != nil {
				return err
			}
			fmt.Fprintf(a.err, "%s has image %s for %s\n", args[0], o.ref, o.platform)
			return nil
		},
	}
	o.addRef(cmd)
	o.addPlatform(cmd)
	return cmd
}

// writeFile makes the file whole or not at all.
func writeFile(file string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	err = write(f)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

func (a *app) imagePushCommand() *cobra.Command {
	var insecure bool
	cmd := &cobra.Command{
		Use:   "push REF",
		Short: "Push the agent's image into a registry",
		Long: `Pushes the agent's image, for all platforms that there is an agent for, into any registry,
with the credentials that ` + "`docker login`" + ` (or a credential helper) has left.`,
		Example: "  teleswap image push registry.example.com/team/teleswap-agent:1",
		Args:    wantOne("a name in a registry, for example registry.example.com/team/teleswap-agent:1"),
		RunE: func(cmd *cobra.Command, args []string) error {
			agents, err := carriedAgents()
			if err != nil {
				return err
			}
			digest, err := agents.Push(cmd.Context(), args[0], agentimage.PushOptions{Insecure: insecure, UserAgent: "teleswap/" + version})
			if err != nil {
				return fmt.Errorf("%w\ncheck the name and `docker login`; --insecure allows a registry that speaks HTTP", err)
			}
			fmt.Fprintf(a.err, "pushed for %s: %s\n", strings.Join(agents.Platforms(), ", "), digest)
			fmt.Fprintf(a.err, "use it by --agent-image %s, or by TELESWAP_AGENT_IMAGE\n", args[0])
			return nil
		},
	}
	cmd.Flags().BoolVar(&insecure, "insecure", false, "allow HTTP, and certificates that cannot be checked")
	return cmd
}

func (a *app) imageLoadCommand() *cobra.Command {
	var o imageFlags
	var into, socket string
	cmd := &cobra.Command{
		Use:   "load",
		Short: "Put the agent's image into a local cluster's nodes",
		Long: `Puts the agent's image into the nodes of a local cluster, by the tool that the cluster was
made with: kind, minikube or k3d, as the context's name tells (kind-NAME, minikube, k3d-NAME,
docker-desktop), or --into does. --containerd puts it into the containerd of this machine.`,
		Example: "  teleswap image load\n  teleswap image load --into kind-dev\n  sudo teleswap image load --containerd /run/containerd/containerd.sock",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			agents, err := carriedAgents()
			if err != nil {
				return err
			}
			if into != "" && socket != "" {
				return usage("say --into or --containerd, not both")
			}
			l, err := chooseLoader(cmp.Or(into, a.kube.context()), socket)
			if err != nil {
				return err
			}
			return a.load(cmd.Context(), l, agents, o)
		},
	}
	o.addRef(cmd)
	o.addPlatform(cmd)
	cmd.Flags().StringVar(&into, "into", "", "the cluster: `kind-NAME`, minikube, k3d-NAME or docker; what the context says if left away")
	cmd.Flags().StringVar(&socket, "containerd", "", "`SOCKET` of a containerd of this machine")
	clusters := cobra.FixedCompletions([]string{"kind-kind", "minikube", "k3d-k3s-default", "docker"}, cobra.ShellCompDirectiveNoFileComp)
	if err := cmd.RegisterFlagCompletionFunc("into", clusters); err != nil {
		cobra.CompErrorln(err.Error())
	}
	return cmd
}

// load saves the image into a file for a moment, for a tool to load it.
func (a *app) load(ctx context.Context, l loader, agents agentimage.Agents, o imageFlags) error {
	dir, err := os.MkdirTemp("", "teleswap-image-")
	if err != nil {
		return fmt.Errorf("make room for the image: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, "agent.tar")
	if err := writeFile(file, func(w io.Writer) error { return agents.Save(w, o.ref, o.platform) }); err != nil {
		return err
	}
	if err := l.run(ctx, file, a.err); err != nil {
		return err
	}
	fmt.Fprintf(a.err, "%s has image %s\n", l.name, o.ref)
	return nil
}

// wantOne answers any other number of arguments than one.
func wantOne(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch len(args) {
		case 0:
			return usage("%s needs %s", cmd.CommandPath(), what)
		case 1:
			return nil
		}
		return usage("%s takes one argument, but %q was given too", cmd.CommandPath(), args[1])
	}
}
