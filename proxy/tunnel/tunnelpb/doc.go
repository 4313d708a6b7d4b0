// Package tunnelpb holds the generated messages of the tunnel's control stream, pod
// view, DNS exchange, ping, trees and logs. It knows nothing of how they travel.
package tunnelpb

//go:generate protoc --go_out=. --go_opt=paths=source_relative tunnel.proto
