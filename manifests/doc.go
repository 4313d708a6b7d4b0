// Package manifests decides what Teleswap's objects in the cluster look like: the
// agent's Deployment, made from the target's pod template, and the Secret with the
// session's keys. All of it is pure: nothing here talks to a cluster, and no input
// is ever changed.
package manifests
