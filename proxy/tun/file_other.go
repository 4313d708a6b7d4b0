//go:build !linux

package tun

import (
	"errors"
	"os"
)

// FromFile makes a Device of the file of a TUN device: on Linux only so far.
func FromFile(*os.File, int) (Device, error) {
	return nil, errors.New("tun devices by file: only on Linux")
}
