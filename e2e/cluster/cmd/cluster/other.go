//go:build !linux

// Command cluster runs the clone's own one-node Kubernetes, on Linux.
package main

import (
	"fmt"
	"os"
	"runtime"
)

func main() {
	fmt.Fprintf(os.Stderr, "cluster: the embedded cluster needs Linux (this is %s): use a cluster that you have, for example kind or minikube: make demo KUBECONFIG=$HOME/.kube/config\n", runtime.GOOS)
	os.Exit(1)
}
