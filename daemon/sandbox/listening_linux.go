package sandbox

import (
	"fmt"

	"github.com/teleswap/teleswap/proxy/procnet"
)

// Listening returns the sockets that listen in the network namespace of process pid.
func Listening(pid int) ([]procnet.Socket, error) {
	sockets, err := procnet.Listening(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		return nil, fmt.Errorf("list the sandbox's listening sockets: %w", err)
	}
	return sockets, nil
}
