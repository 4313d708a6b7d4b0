//go:build unix

package main

import "syscall"

// detached starts a process in a session of its own: no terminal's signals reach it.
func detached() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// ownGroup starts a process in a group of its own: the keyboard's signals do not reach it.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
