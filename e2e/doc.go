// Package e2e tests the built binaries on a real Kubernetes. It imports nothing of the
// product: it types commands, sends signals, and looks at the cluster.
//
// # What it needs
//
// Clients that everybody has: postgresql-client, redis-tools, curl, git, iputils-ping, bind9-dnsutils and fuse3 by
// Debian's names; and Debian or Ubuntu, whose packages the servers' image is made of.
//
// Debian's nodejs and python3-debugpy, for the tests of their debuggers, which are skipped without them, and say so.
//
// sudo, dbus and systemd-resolved, for the tests of a whole machine that is connected: they start the latter two in namespaces of their
// own. Debian's package of systemd-resolved changes /etc/resolv.conf of the machine; .ci/run shows how to keep it.
//
// Docker Engine (Debian's docker.io), for the tests of docker run: they start a dockerd of their own on the laptop, with all
// its files in the run's folder, and end it. Without it they are skipped, and say so.
//
// Linux and root, for the embedded cluster of e2e/cluster: `sudo make e2e` builds it
// once (some minutes), starts it, and leaves it running for the next time; `make
// cluster-down` takes it away. Without root all tests here are skipped, and say so. Root
// only sets the stage: the command line runs as a user without privileges, in a network
// namespace that reaches nothing of the cluster but its API server.
//
// With a cluster of your own, and without root:
//
//	TELESWAP_E2E_KUBECONFIG=$HOME/.kube/config TELESWAP_E2E_IMAGES=registry.example/teleswap go test ./e2e
//
// The cluster must find the images agent, probe, service-a, service-b, servers, controller and quic, tag e2e, under
// that prefix: static builds of ./cmd/teleswap-agent, ./e2e/probe,
// ./examples/greet/service-a and service-b, e2e/quic (a module of its own), as entrypoints of scratch images; and slow-agent, with
// both agent and probe in it and the entrypoint `/probe -wait 2s /teleswap-agent`; servers is of Debian's packages
// (scene/extra.go has the list). Tests that need
// the laptop to be a machine of its own are skipped there.
//
// # How it is made
//
// Each test has a world (package scene): a namespace, a user of the laptop with his own
// home and daemon. Worlds do not touch each other, so tests run in parallel. When a
// test ends its world checks that nothing is left: no process of the user, no object with the
// product's label, the namespace's objects as they were, no race reported. Waits are for
// conditions; no test asserts a time of the clock.
package e2e
