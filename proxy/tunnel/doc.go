// Package tunnel carries TCP connections, DNS messages and a session's control
// messages between the laptop (Client) and the pod (Server) over one connection.
//
// It knows what SPEC.md says and nothing of Kubernetes, nor of how the connection
// between the two ends came about: the caller dials it and passes it in.
package tunnel
