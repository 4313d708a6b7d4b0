package docker

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fake is a docker client that is a shell script.
func fake(t *testing.T, script string) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "docker")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	return &Client{Path: path}
}

func TestCheckDaemon(t *testing.T) {
	dir, err := os.MkdirTemp("", "docker") //nolint:usetesting // a socket's path is short, the test's name long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "sock")
	lis, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lis.Close() })
	local := func(info string) string {
		return "case $1 in context) echo unix://" + socket + ";; info) " + info + `;; version) echo '[{"Name":"Engine"}]';; esac`
	}
	for _, tt := range []struct{ name, script, want string }{
		{"fine", local(`echo '{"OSType":"linux","OperatingSystem":"Debian"}'`), ""},
		{"another machine", "echo tcp://10.1.2.3:2376", "on another machine (tcp://10.1.2.3:2376)"},
		{"by ssh", "echo ssh://me@there", "on another machine"},
		{"nobody there", "echo unix://" + dir + "/none", "docker is not running"},
		{"no such context", "echo 'context \"x\": not found' >&2; exit 1", `context "x": not found`},
		{"a virtual machine", local(`echo '{"OSType":"linux","OperatingSystem":"Docker Desktop"}'`), "virtual machine"},
		{"other containers", local(`echo '{"OSType":"windows"}'`), "containers of windows"},
		{"its daemon has errors", local(`echo '{"OSType":"linux","ServerErrors":["too old"]}'`), "too old"},
		{"another program", local("echo hello"), "Docker's own client"},
		{"podman by docker's name", `case $1 in --version) echo podman version 4.3.1;; esac`, "docker is Podman here"},
		{"podman's socket", strings.Replace(local(`echo '{"OSType":"linux"}'`), "Engine", "Podman Engine", 1), "docker is Podman here"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := fake(t, tt.script).checkDaemon(t.Context())
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestImage(t *testing.T) {
	const here = `echo '[{"Id":"sha256:1","Os":"linux","Config":{"Cmd":["/run"],"Volumes":{"/data":{}},"StopSignal":"SIGINT"}}]'`
	for _, tt := range []struct {
		name, script string
		run          Run
		want, says   string
	}{
		{"here", `case $1 in image) ` + here + ";; *) exit 9;; esac", Run{Image: "img"}, "", ""},
		{
			"pulled", `case $1 in pull) echo pulling "$@"; : >"$0.pulled";; image) [ -e "$0.pulled" ] || { echo "No such image" >&2; exit 1; }; ` + here + ";; esac",
			Run{Image: "img", Platform: "linux/arm64"},
			"", "pulling pull --platform linux/arm64 -- img",
		},
		{
			"nowhere", `case $1 in pull) echo "manifest unknown" >&2; exit 1;; *) echo "No such image" >&2; exit 1;; esac`,
			Run{Image: "img"},
			"image img cannot be had: docker pull says: manifest unknown", "",
		},
		{"not to be pulled", `echo "No such image" >&2; exit 1`, Run{Image: "img", Pull: "never"}, "--pull never", ""},
		{"nothing to run", `echo '[{"Os":"linux"}]'`, Run{Image: "img"}, "says not what to run", ""},
		{"another system", `echo '[{"Os":"windows","Config":{"Cmd":["x"]}}]'`, Run{Image: "img"}, "is for windows", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var progress strings.Builder
			im, err := fake(t, tt.script).Image(t.Context(), &tt.run, &progress)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if !strings.Contains(progress.String(), tt.says) {
				t.Errorf("progress %q lacks %q", progress.String(), tt.says)
			}
			if err == nil && (im.Config.StopSignal != "SIGINT" || len(im.Config.Volumes) != 1) {
				t.Errorf("got %+v", im)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	const none = `echo "Error response from daemon: No such image: $image" >&2; exit 1`
	script := func(create, inspect string) string {
		return `for image; do :; done; echo "$@" >>"$0.words"; case $1 in create) ` + create + ";; container) " + inspect + ";; *) exit 9;; esac"
	}
	for _, tt := range []struct{ name, script, words, want string }{
		{"fine", script(none, "exit 1"), "--rm -e A=1 --sig-proxy=false img", ""},
		{"a wrong value", script(`{ echo 'invalid argument "much" for "--memory"'; echo; echo "Usage: x"; } >&2; exit 125`, "exit 1"), "--memory much img", `flags: invalid argument "much" for "--memory"` + "\nnothing is changed"},
		{"the daemon's word", script(`echo "Error response from daemon: Minimum memory limit allowed is 6MB" >&2; exit 1`, "exit 1"), "-m 1 img", "Minimum memory limit"},
		{"trust that is asked for first", script(`echo "Error: remote trust data does not exist for teleswap.invalid/none" >&2; exit 1`, "exit 1"), "img", ""},
		{"a name that is taken", script(none, "echo 1234"), "--name mine img", "docker rm mine"},
		{"a name that is free", script(none, "exit 1"), "--name mine img", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := Parse(strings.Fields(tt.words))
			if err != nil {
				t.Fatal(err)
			}
			c := fake(t, tt.script)
			err = c.Check(t.Context(), r)
			var usage *UsageError
			if tt.want == "" && err != nil || tt.want != "" && (!errors.As(err, &usage) || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			words, err := os.ReadFile(c.Path + ".words")
			if err != nil || !strings.HasPrefix(string(words), "create --pull never ") || strings.Contains(string(words), "sig-proxy") ||
				strings.Contains(string(words), " img") {
				t.Errorf("asked %q, %v", words, err)
			}
		})
	}
}

func TestCheckRemapped(t *testing.T) {
	c := fake(t, `echo "No such image: `+nowhere+`" >&2; exit 1`)
	c.remaps = true
	for words, want := range map[string]string{"img": "userns-remap", "--userns=host img": ""} {
		r, err := Parse(strings.Fields(words))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Check(t.Context(), r); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", words, err, want)
		}
	}
}

func TestImageInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped")
	cancel(stopped)
	if _, err := fake(t, "exit 1").Image(ctx, &Run{Image: "img"}, io.Discard); !errors.Is(err, stopped) {
		t.Errorf("got %v, want %v", err, stopped)
	}
}
