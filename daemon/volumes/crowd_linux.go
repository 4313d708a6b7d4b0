package volumes

import (
	"context"
	"syscall"
	"time"

	"github.com/teleswap/teleswap/daemon/volumes/sftp"
)

const (
	// crowded is how many names found within fresh make it likely that the directory's others are looked up too.
	crowded = 8
	// crowdSize is how many names are then asked for, two round trips' worth, or as many as somebody has listed. A directory of
	// more is not tried again for crowdPause.
	crowdSize, crowdPause = 1000, time.Minute
)

// crowd counts the names of a directory that were found one by one.
type crowd struct {
	found  int
	since  time.Time
	size   int       // of the last listing that a process asked for
	listed bool      // now, by somebody
	not    time.Time // so long it is not listed
}

// lookAhead lists the directory when a walk through its names seems to be under way, as git status is one: so that takes a
// few round trips and not one for each name. Only what is there is taken from the listing.
func (n *node) lookAhead(ctx context.Context) {
	n.mu.Lock()
	c, now := &n.crowd, time.Now()
	if now.Sub(c.since) > fresh {
		c.found, c.since = 0, now
	}
	c.found++
	if c.found < crowded || c.listed || now.Before(c.not) {
		n.mu.Unlock()
		return
	}
	c.found, c.listed = 0, true
	atMost := max(crowdSize, 2*c.size)
	n.mu.Unlock()
	at := n.remotePath()
	type part struct {
		entries []sftp.Entry
		whole   bool
	}
	got, errno := do(ctx, n.vol.remote, func(a attempt) (part, error) {
		entries, whole, err := a.client.ReadDir(at, atMost)
		return part{entries, whole}, err
	})
	if errno == 0 {
		n.remember(got.entries, now)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	c.listed = false
	if errno == syscall.EINTR {
		return
	}
	if errno != 0 || !got.whole {
		c.not = now.Add(crowdPause)
	}
}
