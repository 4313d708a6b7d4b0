package main

import (
	"slices"
	"strings"
	"testing"
)

// oldLab is a world in which old command lines are read.
var oldLab = oldWorld{log: "/run/teleswap/daemon.log", shell: "/bin/bash", name: func() string { return "teleswap-abcdef" }}

func TestOldForm(t *testing.T) {
	for _, tc := range []struct {
		old   string
		want  string // the new form without its first word
		notes []string
	}{
		// The command lines that people know, as they stand in notes and scripts.
		{"--swap-deployment service-a --expose 5050 --run go run main.go", "swap --deployment service-a --expose 5050 --run go run main.go", nil},
		{"--swap-deployment service-a:app --docker-run --rm -it service-a:0.6.0", "swap --deployment service-a:app --docker-run --rm -it service-a:0.6.0", nil},
		{
			"--context=dev --namespace=shop --swap-deployment service-a --expose 5050 --run go run main.go",
			"swap --deployment service-a --context dev --namespace shop --expose 5050 --run go run main.go", nil,
		},
		{"--new-deployment hello --expose 8080:80 --run ./server --port 8080", "swap --new hello --expose 8080:80 --run ./server --port 8080", nil},
		{"--run curl http://service-a:5050/", "swap --new teleswap-abcdef --run curl http://service-a:5050/", nil},
		{"--run-shell", "swap --new teleswap-abcdef --run /bin/bash", nil},
		{"--swap-deployment service-a --run-shell", "swap --deployment service-a --run /bin/bash", nil},
		{"--method inject-tcp --run python3 -m http.server", "swap --new teleswap-abcdef --run python3 -m http.server", []string{"static programs"}},
		{"--method=vpn-tcp --run curl x", "swap --new teleswap-abcdef --run curl x", []string{"root is not needed"}},
		{"-m container -n hello --docker-run nginx", "swap --new hello --docker-run nginx", nil},
		{"--mount true --run ls", "swap --new teleswap-abcdef --run ls", nil},
		{"--mount=false --run ls", "swap --new teleswap-abcdef --mount false --run ls", nil},
		{"--mount /tmp/known -s web --run ls", "swap --deployment web --mount /tmp/known --run ls", nil},
		{"-s web --docker-mount /pod --docker-run nginx", "swap --deployment web --docker-run nginx", []string{"--docker-mount /pod: ", "$TELEPRESENCE_ROOT is /"}},
		{"-s web --env-json env.json --env-file env.txt --run true", "swap --deployment web --env-json env.json --env-write env.txt --run true", nil},
		{"-s web --also-proxy db.example.com --also-proxy=10.1.0.0/16 --run true", "swap --deployment web --also-proxy db.example.com --also-proxy 10.1.0.0/16 --run true", nil},
		{"-s web --to-pod 8086 --from-pod 8125 --to-pod=9000 --run true", "swap --deployment web --to-pod 8086 --to-pod 9000 --from-pod 8125 --run true", nil},
		{"-n hello --serviceaccount robot --run true", "swap --new hello --serviceaccount robot --run true", nil},
		{"--verbose --local-cluster -s web --run true", "swap --deployment web --run true", []string{"/run/teleswap/daemon.log", "not needed"}},
		{"--logfile /tmp/t.log -s web --run true", "swap --deployment web --run true", []string{"--logfile /tmp/t.log: the daemon's log is /run/teleswap/daemon.log"}},
		{"-s web --expose 8080", "swap --deployment web --expose 8080 --hold", nil},
		{"-sweb -n=x --run true", "", []string{"--new-deployment and --swap-deployment exclude"}},
		{"--version", "version", nil},
		// The last of a flag counts; after --run nothing is ours.
		{"-s a -s b --run echo -s c --expose 1", "swap --deployment b --run echo -s c --expose 1", nil},
	} {
		t.Run(tc.old, func(t *testing.T) {
			args := strings.Fields(tc.old)
			if !isOldForm(args) {
				t.Fatal("not taken for an old command line")
			}
			m, err := fromOldForm(args, oldLab)
			said := strings.Join(m.notes, "\n")
			if tc.want == "" {
				said = errorOf(err)
			} else if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(m.args, " "); got != tc.want {
				t.Errorf("%s\nis   %s\nwant %s", tc.old, got, tc.want)
			}
			if tc.notes == nil && said != "" {
				t.Errorf("says %q", said)
			}
			for _, note := range tc.notes {
				if !strings.Contains(said, note) {
					t.Errorf("says %q, want %q", said, note)
				}
			}
		})
	}
}

func errorOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestOldFormRefuses has what means nothing here, with what to use; nothing is run.
func TestOldFormRefuses(t *testing.T) {
	for old, want := range map[string][]string{
		"--deployment proxy --run true":                {"teleswap swap --deployment proxy", "--new-deployment"},
		"-s web -n hello --run true":                   {"--new-deployment and --swap-deployment exclude each other"},
		"-s web --run-shell --run true":                {"--run and --run-shell exclude"},
		"-s web --docker-run":                          {"--docker-run needs what is to be run"},
		"-s web --mount x --docker-mount /y --run x":   {"--mount and --docker-mount exclude"},
		"-s web --mount tmp --run true":                {"--mount tmp: it is a directory's absolute path"},
		"-s web --docker-mount /y --run true":          {"--docker-mount goes with --docker-run"},
		"-s web --container-to-host 80 --docker-run x": {"host.teleswap.internal"},
		"--docker-host 1.2.3.4 --docker-run x":         {"host.teleswap.internal"},
		"-s web --serviceaccount robot --run true":     {"keeps its own ServiceAccount"},
		"-s web --method teleport --run true":          {"inject-tcp, vpn-tcp and container"},
		"-s web --method container --run true":         {"--method container goes with --docker-run"},
		"--swap-deploymen web --swap-deployment x":     nil, // no flag of the old tool comes first
		"-s web --exposed 80 --run true":               {"no flag --exposed", "did you mean --expose?"},
		"-s web --publish 80 --run true":               {"no flag --publish", "teleswap swap --help"},
		"-s web --expose --run true":                   {"--expose has no value"},
		"-s web --run-shell=yes":                       {"--run-shell takes no value"},
	} {
		t.Run(old, func(t *testing.T) {
			args := strings.Fields(old)
			if got := isOldForm(args); got != (want != nil) {
				t.Fatalf("taken for an old command line: %v", got)
			}
			if want == nil {
				return
			}
			_, err := fromOldForm(args, oldLab)
			for _, text := range want {
				if !strings.Contains(errorOf(err), text) {
					t.Errorf("%q misses %q", errorOf(err), text)
				}
			}
		})
	}
}

// TestNewFormIsNotOld has command lines of ours that begin with flags which the old tool had, too.
func TestNewFormIsNotOld(t *testing.T) {
	for _, line := range []string{
		"", "swap web --run true", "--context dev swap web --run true", "--namespace=shop list", "-n shop swap --deployment web --run true",
		"-s https://api:6443 status", "-n shop", "--context dev", "--help", "__complete swap --run", "--kubeconfig x swap web --run y", "list --run",
	} {
		if isOldForm(strings.Fields(line)) {
			t.Errorf("%q is taken for an old command line", line)
		}
	}
}

// TestOldEnvironment has the variables that programs of the old tool's users read, and a prompt that says where one is.
func TestOldEnvironment(t *testing.T) {
	for _, tc := range []struct {
		old  string
		want []string
	}{
		{"-s web --run true", []string{"TELEPRESENCE_ROOT=/"}},
		{"-s web --mount /tmp/known --run true", []string{"TELEPRESENCE_ROOT=/tmp/known"}},
		{"-s web --mount false --run true", nil},
		{"-s web:app --run-shell", []string{"TELEPRESENCE_ROOT=/", `PROMPT_COMMAND=PS1="@web|$PS1"; unset PROMPT_COMMAND`}},
		{"-s $(x) --run-shell", []string{"TELEPRESENCE_ROOT=/", `PROMPT_COMMAND=PS1="@teleswap|$PS1"; unset PROMPT_COMMAND`}},
	} {
		m, err := fromOldForm(strings.Fields(tc.old), oldLab)
		if err != nil || !slices.Equal(m.env, tc.want) {
			t.Errorf("%s sets %q, %v; want %q", tc.old, m.env, err, tc.want)
		}
	}
}

func TestShellQuote(t *testing.T) {
	m := oldMeaning{args: []string{"swap", "--run", "sh", "-c", "echo 'a b' $X", ""}}
	if got, want := m.line(), `teleswap swap --run sh -c 'echo '\''a b'\'' $X' ''`; got != want {
		t.Errorf("line %s, want %s", got, want)
	}
}
