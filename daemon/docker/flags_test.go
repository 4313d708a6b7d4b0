package docker

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		name  string
		words string
		flags string
		image string
		args  string
		check func(*Run) bool
	}{
		{"image alone", "img", "", "img", "", nil},
		{"flags of the command", "--rm img -p 80 --rm", "--rm", "img", "-p 80 --rm", nil},
		{"letters together", "-it img sh", "-i -t", "img", "sh", func(r *Run) bool { return r.Interactive && r.Terminal }},
		{"letters with a value", "-itv /a:/b img", "-i -t -v /a:/b", "img", "", func(r *Run) bool { return slices.Equal(r.Places, []string{"/b"}) }},
		{
			"a value at once", "-v/a:/b:ro -eA=1 -u=0 img", "-v/a:/b:ro -eA=1 -u=0", "img", "",
			func(r *Run) bool {
				return slices.Equal(r.Places, []string{"/b"}) && slices.Equal(r.Env, []string{"A=1"})
			},
		},
		{
			"long with a value", "--env A --env=B=2 --env-file f img", "--env A --env=B=2 --env-file f", "img", "",
			func(r *Run) bool {
				return slices.Equal(r.Env, []string{"A", "B=2"}) && slices.Equal(r.EnvFiles, []string{"f"})
			},
		},
		{
			"mounts", "--mount type=bind,source=/a,dst=/b --tmpfs /c:size=1m -v /d img", "--mount type=bind,source=/a,dst=/b --tmpfs /c:size=1m -v /d",
			"img", "", func(r *Run) bool { return slices.Equal(r.Places, []string{"/b", "/c", "/d"}) },
		},
		{
			"a mount with a comma", `--mount type=bind,"source=/a,dst=/x","dst=/b,c" img`, `--mount type=bind,"source=/a,dst=/x","dst=/b,c"`,
			"img", "", func(r *Run) bool { return slices.Equal(r.Places, []string{"/b,c"}) },
		},
		{
			"taken from the line", "--entrypoint /x --cidfile f --pull=always --detach=false img a", "", "img", "a",
			func(r *Run) bool { return *r.Entrypoint == "/x" && r.CIDFile == "f" && r.Pull == "always" },
		},
		{"a switch said off", "--tty=false -i=true img", "--tty=false -i=true", "img", "", func(r *Run) bool { return !r.Terminal && r.Interactive }},
		{"an end of flags", "--rm -- img x", "--rm", "img", "x", nil},
		{"no restart", "--restart no img", "", "img", "", nil},
		{"a flag that is too new, joined", "--new-flag=1 img", "--new-flag=1", "img", "", nil},
		{"a value that looks like a flag", "-e -x img", "-e -x", "img", "", nil},
		{
			"name and platform", "--name nn --platform linux/amd64 --stop-signal INT img", "--name nn --platform linux/amd64 --stop-signal INT", "img", "",
			func(r *Run) bool { return r.Name == "nn" && r.Platform == "linux/amd64" && r.StopSignal == "INT" },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := Parse(strings.Fields(tt.words))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(r.Flags, " "); got != tt.flags || r.Image != tt.image || strings.Join(r.Args, " ") != tt.args {
				t.Errorf("flags %q, image %q, arguments %q", got, r.Image, r.Args)
			}
			if tt.check != nil && !tt.check(r) {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct{ words, want string }{
		{"", "needs an image"},
		{"--rm", "needs an image"},
		{"-p 8080:80 img", "teleswap swap NAME --publish PORT --docker-run"},
		{"-p8080:80 img", "--publish cannot be used"},
		{"-itP img", "--publish-all cannot be used"},
		{"--publish=80 img", "--publish cannot be used"},
		{"--network host img", "--network cannot be used"},
		{"--net=host img", "--net cannot be used"},
		{"-h x img", "--hostname cannot be used"},
		{"--dns 1.1.1.1 img", "--dns cannot be used"},
		{"-d img", "teleswap's own -d"},
		{"--restart always img", "--restart cannot be used"},
		{"--expose 80 img", "teleswap's own --expose"},
		{"--nonsense img", "no flag --nonsense"},
		{"--volum /a:/b img", "did you mean --volume"},
		{"--i img", "no flag --i"},
		{"-z img", "no flag -z"},
		{"-itz img", "no flag -z"},
		{"--pull=newer img", `--pull is always, missing or never, not "newer"`},
		{"--env", "--env needs a value"},
		{"-ite", "-e needs a value"},
		{"--rm=perhaps img", "neither true nor false"},
		{"-- -x", "no image"},
		{"-v a:/b:ro:z img", "--volume a:/b:ro:z: it has more parts"},
		{"-v rel img", "--volume rel: the PATH in the container must be absolute"},
		{"--volume=/a:b img", "must be absolute"},
		{"--name -x img", "--name -x: a container's name"},
	} {
		t.Run(tt.words, func(t *testing.T) {
			_, err := Parse(strings.Fields(tt.words))
			var usage *UsageError
			if !errors.As(err, &usage) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want a usage error with %q", err, tt.want)
			}
		})
	}
}

func TestArgv(t *testing.T) {
	image := &Image{Config: ImageConfig{Entrypoint: []string{"/e"}, Cmd: []string{"c1", "c2"}}}
	own, none := "/own", ""
	for _, tt := range []struct {
		name string
		run  Run
		want string
	}{
		{"the image's", Run{}, "/e c1 c2"},
		{"other arguments", Run{Args: []string{"x"}}, "/e x"},
		{"another entrypoint", Run{Entrypoint: &own}, "/own"},
		{"another entrypoint with arguments", Run{Entrypoint: &own, Args: []string{"x"}}, "/own x"},
		{"no entrypoint", Run{Entrypoint: &none, Args: []string{"x", "y"}}, "x y"},
		{"nothing", Run{Entrypoint: &none}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := strings.Join(tt.run.Argv(image), " "); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add("--rm -it -v /a:/b img sh -c x")
	f.Add("-e=1 --env=A= img")
	f.Add("-- img")
	f.Fuzz(func(t *testing.T, line string) {
		words := strings.Split(line, " ")
		r, err := Parse(words)
		if err == nil && (r.Image == "" || !slices.Contains(words, r.Image) || len(r.Args) >= len(words)) {
			t.Errorf("%q: got %+v", words, r)
		}
	})
}
