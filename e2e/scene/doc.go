// Package scene sets up what an end-to-end test plays on: a cluster, an
// ordinary user's laptop, a namespace with workloads, and the built binaries run
// on that laptop. It knows Kubernetes and the command line of the product, and
// imports nothing of the product.
//
// The laptop is a network namespace that reaches the API server and nothing else
// of the cluster, a mount namespace whose resolver is ours, and a user
// without a name, a password or any privilege. Root only builds that stage.
package scene
