package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Listening returns the TCP sockets that listen in the network namespace of process pid.
func Listening(pid int) ([]Socket, error) {
	var all []Socket
	for file, network := range map[string]string{"tcp": "tcp4", "tcp6": "tcp6"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/net/%s", pid, file))
		if errors.Is(err, fs.ErrNotExist) && file == "tcp6" {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("list the sandbox's listening sockets: %w", err)
		}
		socks, err := parseListening(f, network)
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("list the sandbox's listening sockets: %w", err)
		}
		all = append(all, socks...)
	}
	return all, nil
}
