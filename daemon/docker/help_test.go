package docker

import (
	"os/exec"
	"regexp"
	"testing"
)

// TestTableIsDockers compares the table of flags with the help of the docker that is here.
func TestTableIsDockers(t *testing.T) {
	path, err := exec.LookPath("docker")
	if err != nil {
		t.Skip("SKIPPED: needs Docker's client: apt-get install docker.io")
	}
	out, err := exec.CommandContext(t.Context(), path, "run", "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("docker run --help: %v\n%s", err, out)
	}
	line := regexp.MustCompile(`(?m)^ {2,6}(?:-(\w), )?--([a-z0-9-]+)(?: ([a-z]\S*))?(?: {2,}|$)`)
	flags := line.FindAllStringSubmatch(string(out), -1)
	if len(flags) < 80 {
		t.Fatalf("only %d flags in:\n%s", len(flags), out)
	}
	for _, f := range flags {
		letter, name, value := f[1], f[2], f[3]
		known, isSwitch := IsFlag(name)
		if !known || isSwitch != (value == "") {
			t.Errorf("--%s %s: known %v, a switch %v", name, value, known, isSwitch)
		}
		if letter != "" && letters[letter] != name {
			t.Errorf("-%s is --%s, in the table %q", letter, name, letters[letter])
		}
	}
}
