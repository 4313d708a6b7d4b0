//go:build !linux

package volumes

import "context"

// Volumes are the volumes of one sandbox, until Close.
type Volumes struct{}

// Start takes the mounts' handles over.
func Start(context.Context, Config) (*Volumes, error) { return nil, ErrUnsupported }

// Close ends the volumes.
func (v *Volumes) Close() error { return nil }
