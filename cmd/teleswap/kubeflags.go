package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/cli-runtime/pkg/genericclioptions"

	"github.com/teleswap/teleswap/daemon/kube"
)

// kubeFlags are kubectl's connection flags.
type kubeFlags struct {
	flags *genericclioptions.ConfigFlags
}

func newKubeFlags() *kubeFlags {
	flags := genericclioptions.NewConfigFlags(false)
	flags.CacheDir = nil // of discovery, which is not used
	return &kubeFlags{flags: flags}
}

func (k *kubeFlags) add(fs *pflag.FlagSet) { k.flags.AddFlags(fs) }

// saidNamespace is the namespace that was named by -n; empty: none was.
func (k *kubeFlags) saidNamespace() string {
	if k.flags.Namespace == nil {
		return ""
	}
	return *k.flags.Namespace
}

// connection is what the daemon needs to reach the cluster: JSON of kube.Connection.
func (k *kubeFlags) connection() ([]byte, error) {
	conn, err := k.plainConnection()
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(conn)
	if err != nil {
		return nil, fmt.Errorf("encode the connection to the cluster: %w", err)
	}
	return data, nil
}

// plainConnection is connection, for who asks the cluster himself.
func (k *kubeFlags) plainConnection() (kube.Connection, error) {
	cwd, err := os.Getwd()
	if err != nil {
		return kube.Connection{}, fmt.Errorf("find the working directory: %w", err)
	}
	return kube.FromFlags(k.flags, os.Environ(), cwd), nil
}

// complete offers the kubeconfig's names, and more namespaces.
func (k *kubeFlags) complete(root *cobra.Command, moreNamespaces func(context.Context) []string) {
	names := func(pick func() []string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return pick(), cobra.ShellCompDirectiveNoFileComp
		}
	}
	offered := map[string]cobra.CompletionFunc{
		"context": names(k.contexts), "cluster": names(k.clusters), "user": names(k.users),
		"namespace": func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			all := append(k.namespaces(), moreNamespaces(cmd.Context())...)
			slices.Sort(all)
			return slices.Compact(all), cobra.ShellCompDirectiveNoFileComp
		},
	}
	for flag, offer := range offered {
		if err := root.RegisterFlagCompletionFunc(flag, offer); err != nil {
			cobra.CompErrorln(err.Error())
		}
	}
}

// context is the name of the context in use; empty where there is none.
func (k *kubeFlags) context() string {
	if *k.flags.Context != "" {
		return *k.flags.Context
	}
	cfg, err := k.flags.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return ""
	}
	return cfg.CurrentContext
}

func (k *kubeFlags) contexts() []string {
	cfg, err := k.flags.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return nil
	}
	return sortedKeys(cfg.Contexts)
}

func (k *kubeFlags) clusters() []string {
	cfg, err := k.flags.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return nil
	}
	return sortedKeys(cfg.Clusters)
}

func (k *kubeFlags) users() []string {
	cfg, err := k.flags.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return nil
	}
	return sortedKeys(cfg.AuthInfos)
}

// namespaces are those that the kubeconfig's contexts name.
func (k *kubeFlags) namespaces() []string {
	cfg, err := k.flags.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return nil
	}
	seen := map[string]bool{"default": true}
	for _, c := range cfg.Contexts {
		if c.Namespace != "" {
			seen[c.Namespace] = true
		}
	}
	return sortedKeys(seen)
}
