package main

import (
	"slices"
	"strings"
	"testing"
)

func TestConnectCommand(t *testing.T) {
	for _, tc := range []struct {
		name  string
		args  []string // of connect, as cobra leaves them
		dash  int
		taken []string // by --run
		shell bool
		env   string // SHELL
		want  []string
		err   string
	}{
		{name: "after --", args: []string{"curl", "-v"}, dash: 0, want: []string{"curl", "-v"}},
		{name: "--run", dash: -1, taken: []string{"curl", "-v"}, want: []string{"curl", "-v"}},
		{name: "a shell", dash: -1, shell: true, env: "/bin/zsh", want: []string{"/bin/zsh"}},
		{name: "a shell that is not known", dash: -1, shell: true, want: []string{"/bin/sh"}},
		{name: "nothing", dash: -1, err: "there is no command"},
		{name: "nothing after --", dash: 0, err: "there is no command"},
		{name: "no --", args: []string{"curl"}, dash: -1, err: "teleswap connect -- curl"},
		{name: "a word before --", args: []string{"web", "curl"}, dash: 1, err: `"web"`},
		{name: "--run and --", args: []string{"curl"}, dash: 0, taken: []string{"wget"}, err: "one of them"},
		{name: "a shell and --", args: []string{"curl"}, dash: 0, shell: true, err: "one of them"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := connectOptions{shell: tc.shell, noSandbox: !hasSandbox}
			got, err := o.command(tc.args, tc.dash, tc.taken, func(string) string { return tc.env })
			switch {
			case tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)):
				t.Errorf("got %v, want %q", err, tc.err)
			case tc.err == "" && (err != nil || !slices.Equal(got, tc.want)):
				t.Errorf("got %q, %v, want %q", got, err, tc.want)
			}
		})
	}
	agent := agentFlags{pullPolicy: "Sometimes"}
	if err := agent.check(); err == nil || !strings.Contains(err.Error(), "Sometimes") {
		t.Errorf("a policy that there is not: %v", err)
	}
}

// TestSplitRunOfConnect: --run takes the rest of the line, of the verb that comes first.
func TestSplitRunOfConnect(t *testing.T) {
	rest, command, container, err := splitRun([]string{"-n", "shop", "connect", "--run", "swap", "--run", "x"})
	if err != nil || container || !slices.Equal(rest, []string{"-n", "shop", "connect"}) || !slices.Equal(command, []string{"swap", "--run", "x"}) {
		t.Errorf("rest %q, command %q, %v", rest, command, err)
	}
	if _, _, _, err := splitRun([]string{"connect", "--docker-run"}); err == nil || !strings.Contains(err.Error(), "teleswap connect --docker-run") {
		t.Errorf("no image: %v", err)
	}
}
