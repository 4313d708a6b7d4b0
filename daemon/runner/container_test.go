package runner

import (
	"slices"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/daemon/docker"
	"github.com/teleswap/teleswap/daemon/sandbox"
)

func container(t *testing.T, words ...string) *ContainerSpec {
	t.Helper()
	run, err := docker.Parse(words)
	if err != nil {
		t.Fatal(err)
	}
	return &ContainerSpec{
		Sandbox: Spec{Session: "k3f9qz", Token: "t0ken", Handoff: "/run/x,y/handoff.sock", Hostname: "web-1", Env: []string{"PASSWORD=secret"}},
		Client:  &docker.Client{Path: "docker", Program: `/opt/a"b/teleswap`},
		Run:     run,
		Image:   &docker.Image{Config: docker.ImageConfig{Entrypoint: []string{"/e"}, Cmd: []string{"c"}, Volumes: map[string]struct{}{"/data": {}}}},
	}
}

// TestContainerWords has no secret in docker's words, where everybody could read them.
func TestContainerWords(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []string
		want []string // in this order
	}{
		{"the image's command", []string{"--rm", "img"}, []string{"run", "--network container:teleswap-k3f9qz-net", "--name teleswap-k3f9qz", "--rm img", GateArg, "/e c"}},
		{"its own name", []string{"--name", "mine", "img", "x"}, []string{"--name mine img", GateArg, "/e x"}},
		{"another entrypoint", []string{"--entrypoint", "sh", "--cidfile", "f", "img", "-c", "true"}, []string{"--entrypoint " + gatePath, "--cidfile f", "img", GateArg, "sh -c true"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := container(t, tt.in...)
			all := strings.Join(s.words(), " ")
			rest := all
			for _, want := range tt.want {
				_, after, found := strings.Cut(rest, want)
				if !found {
					t.Fatalf("no %q in its place in %q", want, all)
				}
				rest = after
			}
			keeper := strings.Join(s.keeperWords("/run/c"), " ")
			if strings.Contains(all+keeper, "secret") || strings.Contains(all+keeper, "t0ken") {
				t.Errorf("a secret in %q or %q", all, keeper)
			}
			for _, want := range []string{"--rm", "--network none", "--hostname web-1", "--tmpfs /data img " + KeepArg} {
				if !strings.Contains(keeper, want) {
					t.Errorf("the keeper has no %q: %q", want, keeper)
				}
			}
		})
	}
}

func TestBind(t *testing.T) {
	if got, want := bind("/a", "/b"), "source=/a,target=/b,type=bind"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := bind(`/a,"b`, "/b"), `"source=/a,""b",target=/b,type=bind`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestExecWords(t *testing.T) {
	got := ExecWords("c", []string{"-it"}, []string{"sh", "-l"})
	if want := []string{"exec", "-it", "c", gatePath, GateArg, "sh", "-l"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestKeeperPathsFit(t *testing.T) {
	for _, path := range []string{sandbox.KeeperControl, sandbox.KeeperHandoff, gatePath} {
		if !strings.HasPrefix(path, "/.teleswap/") {
			t.Errorf("%s is not in our own directory of the container", path)
		}
	}
}
