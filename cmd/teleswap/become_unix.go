//go:build unix

package main

import (
	"os"
	"syscall"
)

// become replaces this process by another program; it returns only an error.
func become(path string, argv []string) error { return syscall.Exec(path, argv, os.Environ()) }
