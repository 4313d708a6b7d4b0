package sandbox

import (
	"slices"
	"syscall"
	"testing"
)

func TestPassEnvironment(t *testing.T) {
	p := pass{Env: []string{"A=pod", "B=one\ntwo", "C=pod"}, Own: []string{"C"}}
	got := p.environment([]string{"PATH=/bin", "A=image", "C=user's"})
	if want := []string{"PATH=/bin", "C=user's", "A=pod", "B=one\ntwo"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestMapTo maps the volumes' owner to the container's user, and keeps a root for the keeper itself.
func TestMapTo(t *testing.T) {
	for _, tt := range []struct {
		name   string
		id, as int
		want   []syscall.SysProcIDMap
	}{
		{"an ordinary user's to root", 1000, 0, []syscall.SysProcIDMap{{ContainerID: 1000, HostID: 0, Size: 1}}},
		{"an ordinary user's to another", 1000, 65532, []syscall.SysProcIDMap{{ContainerID: 1000, HostID: 65532, Size: 1}, {ContainerID: 0, HostID: 0, Size: 1}}},
		{"root's to another", 0, 65532, []syscall.SysProcIDMap{{ContainerID: 0, HostID: 65532, Size: 1}, {ContainerID: 1, HostID: 0, Size: 1}}},
	} {
		if got := mapTo(tt.id, tt.as); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
	if f, err := idMap(user{1, 1}, user{1, 1}); f != nil || err != nil {
		t.Errorf("one user: got %v, %v, want no map", f, err)
	}
}
