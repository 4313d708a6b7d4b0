package docker

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestLastWords(t *testing.T) {
	var said LastWords
	if got := said.Or(errors.New("exit status 1")); got != "exit status 1" {
		t.Errorf("of one who said nothing: %q", got)
	}
	fmt.Fprintf(&said, "%s\nthe end\n", strings.Repeat("x", 2*keptWords))
	if got := said.Or(nil); !strings.HasSuffix(got, "x\nthe end") || len(got) >= keptWords {
		t.Errorf("%d bytes are kept: %q", len(got), got)
	}
}
