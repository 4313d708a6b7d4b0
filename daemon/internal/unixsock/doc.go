// Package unixsock has what a unix socket tells beside its bytes: the descriptors that came with a message, and which process is at
// the other end. It knows no messages.
package unixsock
