// Package ping sends ICMP echo requests without privileges, where the system lets it. It knows addresses only.
package ping

import "errors"

// ErrUnavailable is returned where this process may not send an echo request: on Linux the group must be in the sysctl
// net.ipv4.ping_group_range (icmp(7)).
var ErrUnavailable = errors.New("this system does not let an ordinary process ping")
