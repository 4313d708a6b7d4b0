//go:build !linux

package volumes

import (
	"context"
	"net"
	"os"
)

// Volumes are the volumes of one sandbox, until Close.
type Volumes struct{}

// Start takes the mounts' handles over.
func Start(context.Context, Config) (*Volumes, error) { return nil, ErrUnsupported }

// Close ends the volumes.
func (v *Volumes) Close() error { return nil }

// Found is what is at a path in the pod.
type Found struct {
	Mode os.FileMode
	Err  error
}

// Probe looks at paths of the pod.
func Probe(context.Context, func(context.Context) (net.Conn, error), []string) ([]Found, error) {
	return nil, ErrUnsupported
}
