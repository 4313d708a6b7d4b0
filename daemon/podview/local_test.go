package podview

import (
	"slices"
	"testing"
)

func TestLocal(t *testing.T) {
	got := Local([]string{"PATH=/l", "ENV=test", "TERM=xterm", "HOSTNAME=laptop", "LC_ALL=C", "no variable", "SSH_AUTH_SOCK=/a"})
	if want := []string{"PATH=/l", "TERM=xterm", "LC_ALL=C", "SSH_AUTH_SOCK=/a"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
