//go:build !linux

package volumes

import (
	"context"
	"errors"
	"strings"
	"sync"
)

// Volumes are the volumes of one process, until Close.
type Volumes struct {
	copies *copies
	stop   context.CancelFunc
	loops  sync.WaitGroup
}

// Start fills the synced volumes, and returns when they hold their first copy, or ctx has ended: then it says what is
// missing, and goes on trying. There are no live ones here. The caller must close what it returns.
func Start(ctx context.Context, cfg Config) (*Volumes, error) {
	cfg = cfg.withDefaults()
	copies, err := newCopies(cfg)
	if err != nil {
		return nil, err
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	v := &Volumes{copies: copies, stop: stop}
	v.loops.Go(func() { v.copies.follow(life) })
	select {
	case <-v.copies.arrived:
	case <-ctx.Done():
		cfg.Warn("the pod's %s did not come in time, and will be there later", strings.Join(v.copies.missing(), ", "))
	}
	return v, nil
}

// Close ends the copying. What was copied stays; see Clear.
func (v *Volumes) Close() error {
	v.stop()
	v.loops.Wait()
	return v.copies.close()
}

// CanMount says why this user cannot mount live volumes outside a sandbox.
func CanMount() error { return errors.Join(ErrNoFUSE, errors.New("which teleswap has on Linux only")) }

// unmountBelow has nothing to do: nothing is mounted here.
func unmountBelow(string) error { return nil }
