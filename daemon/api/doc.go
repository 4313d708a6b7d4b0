// Package api is the local gRPC API of the daemon, and its client: the service of
// daemon.proto over a unix socket that is its owner's alone. The directory is checked
// (owner, mode, no symlink), the socket has mode 0600, and both ends ask the kernel
// for the other's uid.
//
// It knows nothing of sessions, clusters or how the daemon is started.
package api

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative daemon.proto
