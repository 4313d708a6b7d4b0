package podview

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestPlanWishes(t *testing.T) {
	local := []string{"PATH=/l", "REPLY=laptop", "GOPATH=/g"}
	pod := []string{"REPLY=Yo", "DB_HOST=db", "DB_PASS=x", "A/B=c"}
	for _, c := range []struct {
		name string
		o    EnvOptions
		want []string
		pod  []string
	}{
		{
			"set is over everything, also over what stays local",
			EnvOptions{Set: []string{"PATH=/mine", "REPLY=1", "REPLY=2", "NEW=n"}},
			[]string{"PATH=/mine", "REPLY=2", "GOPATH=/g", "DB_HOST=db", "DB_PASS=x", "A/B=c", "NEW=n"},
			[]string{"A/B=c", "DB_HOST=db", "DB_PASS=x", "NEW=n", "PATH=/mine", "REPLY=2"},
		},
		{
			"include takes only what matches",
			EnvOptions{Include: []string{"DB_*"}},
			[]string{"PATH=/l", "REPLY=laptop", "GOPATH=/g", "DB_HOST=db", "DB_PASS=x"},
			[]string{"DB_HOST=db", "DB_PASS=x"},
		},
		{
			"exclude holds over include",
			EnvOptions{Include: []string{"DB_*", "REPLY"}, Exclude: []string{"*_PAS?"}},
			[]string{"PATH=/l", "REPLY=Yo", "GOPATH=/g", "DB_HOST=db"},
			[]string{"DB_HOST=db", "REPLY=Yo"},
		},
		{
			"a star takes a slash",
			EnvOptions{Exclude: []string{"A*", "DB*"}},
			[]string{"PATH=/l", "REPLY=Yo", "GOPATH=/g"},
			[]string{"REPLY=Yo"},
		},
		{
			"globs do not hold for set",
			EnvOptions{Exclude: []string{"*"}, Set: []string{"DB_HOST=mine"}},
			[]string{"PATH=/l", "REPLY=laptop", "GOPATH=/g", "DB_HOST=mine"},
			[]string{"DB_HOST=mine"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Plan(local, pod, c.o)
			if !slices.Equal(got.All, c.want) {
				t.Errorf("all  %q\nwant %q", got.All, c.want)
			}
			if !slices.Equal(got.Pod, c.pod) {
				t.Errorf("the pod's %q\nwant      %q", got.Pod, c.pod)
			}
		})
	}
}

func TestPlanKeepsBytes(t *testing.T) {
	pod := []string{"LINES=a\nb\n", "SIGNS==x=\"y\" 'z' $HOME \\n", "UNICODE=žluťoučký 🐎", "BYTES=\xff\xfe\x01", "LONG=" + strings.Repeat("x", 100<<10)}
	got := Plan(nil, pod, EnvOptions{One: 128<<10 - 1})
	if !slices.Equal(got.All, pod) || len(got.Left) > 0 {
		t.Errorf("left out %q; got %d variables, want all %d byte for byte", got.Left, len(got.All), len(pod))
	}
}

func TestPlanLeavesOutWhatIsTooLong(t *testing.T) {
	const limit = 100
	fits, long := "FITS="+strings.Repeat("x", limit-5), "LONG="+strings.Repeat("x", limit-4)
	got := Plan([]string{"LONG=laptop"}, []string{fits, long}, EnvOptions{One: limit})
	if !slices.Equal(got.All, []string{fits}) || !slices.Equal(got.Left, []string{"LONG"}) {
		t.Errorf("all %q, left out %q", got.All, got.Left)
	}
	if !slices.Equal(got.Pod, []string{fits, long}) {
		t.Errorf("the pod's are %q: what is left out of the process can still be written to a file", got.Pod)
	}
}

func TestFits(t *testing.T) {
	env := []string{"SMALL=1", "BIG=" + strings.Repeat("secret", 1000)}
	size := len("x") + len(env[0]) + len(env[1]) + 3*(1+pointer)
	if err := Fits([]string{"x"}, env, size); err != nil {
		t.Errorf("exactly fitting: %v", err)
	}
	err := Fits([]string{"x"}, env, size-1)
	if err == nil || !strings.Contains(err.Error(), "BIG (5 KiB), SMALL") || strings.Contains(err.Error(), "secret") {
		t.Errorf("a byte too much: %v; want the names, largest first, and no value", err)
	}
}

func TestParseEnvFile(t *testing.T) {
	lookup := func(name string) (string, bool) {
		v, ok := map[string]string{"HERE": "laptop's", "EMPTY": ""}[name]
		return v, ok
	}
	long := strings.Repeat("x", 100<<10)
	for _, c := range []struct {
		name, text, fails string
		want              []string
	}{
		{"plain", "A=1\nB=2\n", "", []string{"A=1", "B=2"}},
		{"no newline at the end", "A=1\nB=2", "", []string{"A=1", "B=2"}},
		{"quotes, spaces and signs are the value's", `A="x" 'y' # no comment=$HOME ` + "\n", "", []string{`A="x" 'y' # no comment=$HOME `}},
		{"blank lines, comments, indentation", "\n  # no\n#A=1\n\t B=2\n", "", []string{"B=2"}},
		{"a name alone is the laptop's", "HERE\nNOT_HERE\nEMPTY\n", "", []string{"HERE=laptop's", "EMPTY="}},
		{"an empty value", "A=\n", "", []string{"A="}},
		{"as Windows writes it", "\ufeffA=1\r\nB=2\r\n", "", []string{"A=1", "B=2"}},
		{"bytes", "A=\xff\xfe\n", "", []string{"A=\xff\xfe"}},
		{"a long line", "A=" + long + "\n", "", []string{"A=" + long}},
		{"nothing", "", "", nil},
		{"export", "A=1\nexport B=secret\n", "line 2", nil},
		{"no name", "=secret\n", "line 1", nil},
		{"a NUL", "A=secret\x00\n", "line 1", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseEnvFile(strings.NewReader(c.text), lookup)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) || strings.Contains(err.Error(), "secret") {
					t.Errorf("error %v, want one with %q and without the value", err, c.fails)
				}
				return
			}
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("got %q, %v\nwant %q", got, err, c.want)
			}
		})
	}
}

func FuzzParseEnvFile(f *testing.F) {
	f.Add("A=1\n#x\n B=\"2\"\r\nC")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseEnvFile(strings.NewReader(text), func(string) (string, bool) { return "", false })
		if err != nil {
			return
		}
		for _, kv := range got {
			if name, _, ok := split(kv); !ok || strings.ContainsAny(name, " \t\n\x00") {
				t.Errorf("%q is no variable", kv)
			}
		}
		again, err := ParseEnvFile(strings.NewReader(strings.Join(got, "\n")), nil)
		if err != nil || !slices.Equal(got, again) {
			t.Errorf("written again %q: %q, %v", got, again, err)
		}
	})
}

func TestEnvJSON(t *testing.T) {
	data, mangled, err := EnvJSON([]string{"A=<1>&\n\"x\"=", "U=žluť", "B=\xff", "novalue"})
	if err != nil || !slices.Equal(mangled, []string{"B"}) {
		t.Fatalf("mangled %q, %v", mangled, err)
	}
	var got map[string]string
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"A": "<1>&\n\"x\"=", "U": "žluť", "B": "\ufffd"}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestEnvLines(t *testing.T) {
	data, left := EnvLines([]string{"A= x ", "LINES=1\n2", "EMPTY=", "novalue", "R=1\r"})
	if string(data) != "A= x \nEMPTY=\n" || !slices.Equal(left, []string{"LINES", "R"}) {
		t.Errorf("lines %q, left out %q", data, left)
	}
	back, err := ParseEnvFile(strings.NewReader(string(data)), func(string) (string, bool) { return "", false })
	if err != nil || !slices.Equal(back, []string{"A= x ", "EMPTY="}) {
		t.Errorf("read again: %q, %v", back, err)
	}
}

func TestCheckGlobs(t *testing.T) {
	if err := CheckGlobs([]string{"A*", "?", "[a-z]_*"}); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"[", "a[", ""} {
		if err := CheckGlobs([]string{"A*", bad}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", bad)) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestPlanInContainer takes all of the pod's but what the image and the runtime say.
func TestPlanInContainer(t *testing.T) {
	pod := []string{"PATH=/pod", "HOME=/pod", "LANG=C", "USER=pod", "A=pod"}
	got := Plan(nil, pod, EnvOptions{InContainer: true, Set: []string{"HOME=/set"}}).All
	slices.Sort(got)
	if want := []string{"A=pod", "HOME=/set", "LANG=C", "USER=pod"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
