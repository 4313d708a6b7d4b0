// Package accept takes the connections of a listener, through bad times.
package accept

import (
	"errors"
	"net"
	"time"
)

// pause is waited after an error: a process that has no descriptor left gets one when another connection ends.
const pause = 50 * time.Millisecond

// Loop calls take with each connection of lis, one after the other, until somebody closes lis: Loop does not. Any other error of
// Accept is told to warn, and after a moment it goes on. take owns the connection.
func Loop(lis net.Listener, warn func(error), take func(net.Conn)) {
	for {
		c, err := lis.Accept()
		switch {
		case err == nil:
			take(c)
			continue
		case errors.Is(err, net.ErrClosed):
			return
		}
		warn(err)
		time.Sleep(pause)
	}
}
