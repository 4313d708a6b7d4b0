package runner

import (
	"syscall"
	"testing"
)

func TestStopSignal(t *testing.T) {
	for _, tt := range []struct {
		user, image string
		want        syscall.Signal
	}{
		{"", "", syscall.SIGTERM},
		{"", "SIGQUIT", syscall.SIGQUIT},
		{"int", "SIGQUIT", syscall.SIGINT},
		{"10", "", syscall.SIGUSR1},
		{"nonsense", "3", syscall.SIGQUIT},
	} {
		if got := stopSignal(tt.user, tt.image); got != tt.want {
			t.Errorf("stopSignal(%q, %q) = %v, want %v", tt.user, tt.image, got, tt.want)
		}
	}
}
