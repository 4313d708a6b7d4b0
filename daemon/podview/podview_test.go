package podview

import (
	"slices"
	"testing"
)

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		name             string
		local, pod, want []string
	}{
		{"the pod's value wins", []string{"REPLY=laptop"}, []string{"REPLY=Yo"}, []string{"REPLY=Yo"}},
		{"the laptop's others stay", []string{"GOPATH=/g"}, []string{"A=1"}, []string{"GOPATH=/g", "A=1"}},
		{
			"who and where the user is stays local",
			[]string{"PATH=/l", "HOME=/h", "LC_ALL=C", "XDG_RUNTIME_DIR=/run/user/1"},
			[]string{"PATH=/p", "HOME=/", "LC_ALL=POSIX", "XDG_RUNTIME_DIR=/x", "LC_TIME=C", "TERM=xterm", "SSH_AUTH_SOCK=/s"},
			[]string{"PATH=/l", "HOME=/h", "LC_ALL=C", "XDG_RUNTIME_DIR=/run/user/1"},
		},
		{
			"HOSTNAME and TZ are the pod's",
			[]string{"HOSTNAME=laptop", "TZ=Europe/Berlin"},
			[]string{"HOSTNAME=service-a-0", "TZ=UTC"},
			[]string{"HOSTNAME=service-a-0", "TZ=UTC"},
		},
		{"a near name is not local", nil, []string{"PATHS=1", "XDG=2", "HOME_URL=3"}, []string{"PATHS=1", "XDG=2", "HOME_URL=3"}},
		{"the last value of a name counts", []string{"A=1", "A=2"}, []string{"B=1", "B=2"}, []string{"A=2", "B=2"}},
		{"values may hold anything", nil, []string{"URL=http://x?a=b", "EMPTY=", "LINES=1\n2"}, []string{"URL=http://x?a=b", "EMPTY=", "LINES=1\n2"}},
		{"what is no variable is dropped", []string{"=C:=x", "noequals"}, []string{"=x", "neither"}, nil},
		{"nothing", nil, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			local, pod := slices.Clone(c.local), slices.Clone(c.pod)
			if got := Plan(c.local, c.pod, EnvOptions{}).All; !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			if !slices.Equal(local, c.local) || !slices.Equal(pod, c.pod) {
				t.Error("an argument was changed")
			}
		})
	}
}
