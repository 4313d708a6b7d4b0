package main

// The kernel's limits of what execve(2) passes on ("Limits on size of arguments and environment").
const (
	// longestVariable is MAX_ARG_STRLEN, 32 pages, without the NUL at its end.
	longestVariable = 128<<10 - 1
	// leastForAll is what is always allowed, and mostForAll what never is exceeded: three quarters of _STK_LIM.
	leastForAll, mostForAll = 128 << 10, 6 << 20
	// ownShare is room for the program's path, which counts too.
	ownShare = 4096
)

// allVariables is how many bytes arguments and environment may take together, their addresses counted.
func allVariables() int {
	return int(min(max(stackLimit()/4, leastForAll), mostForAll)) - ownShare
}
