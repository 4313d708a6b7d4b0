package volumes

import "syscall"

// errnoName is not to be had on Windows, where the errnos are Go's invention.
func errnoName(syscall.Errno) string { return "" }
