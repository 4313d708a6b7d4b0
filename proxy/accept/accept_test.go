package accept

import (
	"net"
	"slices"
	"syscall"
	"testing"
)

// script is a listener that has these errors and connections, and is closed then.
type script struct {
	net.Listener
	results []error
}

func (s *script) Accept() (net.Conn, error) {
	if len(s.results) == 0 {
		return nil, &net.OpError{Op: "accept", Err: net.ErrClosed}
	}
	err := s.results[0]
	s.results = s.results[1:]
	if err != nil {
		return nil, err
	}
	return &net.TCPConn{}, nil
}

func TestLoop(t *testing.T) {
	for name, tc := range map[string]struct {
		results  []error
		took     int
		warnings []error
	}{
		"until it is closed": {results: []error{nil, nil}, took: 2},
		"no descriptor left": {results: []error{nil, syscall.EMFILE, syscall.ENFILE, nil}, took: 2, warnings: []error{syscall.EMFILE, syscall.ENFILE}},
	} {
		t.Run(name, func(t *testing.T) {
			var warnings []error
			took := 0
			Loop(&script{results: tc.results}, func(err error) { warnings = append(warnings, err) }, func(net.Conn) { took++ })
			if took != tc.took || !slices.Equal(warnings, tc.warnings) {
				t.Errorf("took %d, warned of %v; want %d and %v", took, warnings, tc.took, tc.warnings)
			}
		})
	}
}
