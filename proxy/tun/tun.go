// Package tun holds layer 3 network devices: what carries whole IP packets between a kernel's network stack and
// ours. One file per operating system, and a pair in memory for tests. It knows nothing of what the packets mean.
package tun

// Device carries whole IP packets without any framing header. Read is called by one goroutine at a time;
// Write and Close may be called by many at once.
type Device interface {
	// Read waits for one packet and puts it into p. A packet longer than p is cut. After Close it
	// returns os.ErrClosed.
	Read(p []byte) (int, error)
	// Write sends one packet given in pieces. It blocks rather than drops. After Close it returns os.ErrClosed.
	Write(pieces [][]byte) error
	// MTU is the longest packet in bytes.
	MTU() int
	// Close ends a Read that waits, and frees the device. It may be called twice.
	Close() error
}
