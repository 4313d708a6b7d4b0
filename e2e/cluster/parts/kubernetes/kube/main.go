// Command kube is every Kubernetes program that the one-node cluster runs, and
// kubectl, in one binary: they share nine tenths of their code, so one link
// costs what one of them would. The first argument names the program, or the
// name it is called by does, for kubectl.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json, as upstream's binaries have it
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // the client metrics that upstream registers
	_ "k8s.io/component-base/metrics/prometheus/version"  // and the version metric
	kubectlcmd "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	// Under the name kubectl it is kubectl.
	if filepath.Base(os.Args[0]) == "kubectl" {
		os.Args = slices.Insert(os.Args, 1, "kubectl")
	}
	if len(os.Args) < 2 {
		usage()
	}
	name := os.Args[1]
	if name == "etcd" {
		etcdmain.Main(slices.Delete(slices.Clone(os.Args), 0, 1))
		return
	}
	newCommand, ok := programs()[name]
	if !ok {
		usage()
	}
	// The commands read os.Args themselves: hand them what they would see on
	// their own.
	os.Args = slices.Delete(slices.Clone(os.Args), 0, 1)
	os.Exit(cli.Run(newCommand()))
}

func programs() map[string]func() *cobra.Command {
	return map[string]func() *cobra.Command{
		"kube-apiserver":          func() *cobra.Command { return apiserver.NewAPIServerCommand() },
		"kube-controller-manager": controllers.NewControllerManagerCommand,
		"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
		"kube-proxy":              proxy.NewProxyCommand,
		// The kubelet's command installs its own signal handler; a context
		// that already has one panics ("close of closed channel").
		"kubelet": func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
		"kubectl": kubectlcmd.NewDefaultKubectlCommand,
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: kube etcd|kube-apiserver|kube-controller-manager|kube-scheduler|kube-proxy|kubelet|kubectl [flags]")
	os.Exit(2)
}
