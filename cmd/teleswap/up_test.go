package main

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teleswap/teleswap/project"
)

// TestEveryKeyIsAFlag holds the keys of a project file to the flags of swap: a session with all of them is a line that swap takes.
func TestEveryKeyIsAFlag(t *testing.T) {
	text := `sessions:
  all:
    target: deployment/web:app
    context: c
    namespace: n
    command: [x, --flag]
    expose: ["1:2/udp", 80]
    publish: ["127.0.0.1:1:2"]
    to-pod: [1]
    from-pod: [2]
    env-file: f
    env-include: [A*]
    env-exclude: B
    env-json: out
    node: n1
    order: scale-first
    skip-init: true
    lifecycle-hooks: true
    no-pod-logs: true
    mount: false
    no-sandbox: true
    agent-image: i
    agent-pull-policy: Never
    flags: [--skip-init]
`
	file, err := project.Parse("/f", []byte(text), projectRules())
	if err != nil {
		t.Fatal(err)
	}
	a := &app{kube: newKubeFlags()}
	cmd, words, err := a.rootCommand(nil).Find(file.Sessions[0].Args("--" + overseerFlag + "=s"))
	if err != nil || cmd.Name() != "swap" {
		t.Fatalf("%v, %v", cmd, err)
	}
	if err := cmd.ParseFlags(words); err != nil {
		t.Fatal(err)
	}
	if dash := cmd.ArgsLenAtDash(); dash != 1 || !slices.Equal(cmd.Flags().Args(), []string{"deployment/web:app", "x", "--flag"}) {
		t.Errorf("the words are %q, -- after %d", cmd.Flags().Args(), dash)
	}
	if _, err := parseExposes(file.Sessions[0].Expose); err != nil {
		t.Error(err)
	}
}

func TestProjectRules(t *testing.T) {
	for keys, want := range map[string]string{
		"target: a/b":                                "a a cannot be swapped; the kinds are ",
		"target: web, expose: [8080, 8080]":          "expose: the target's port 8080 is given twice",
		"target: web, expose: [0]":                   "expose: 0: there is no port 0",
		`target: web, publish: ["0:1", "0:2"]`:       "",
		`target: web, publish: [1, "127.0.0.1:1:2"]`: "publish: this machine's 127.0.0.1:1 is given twice",
		"target: web, to-pod: [1/sctp]":              `to-pod: 1/sctp: protocol "sctp"`,
	} {
		_, err := project.Parse("f", []byte("sessions: {s: {command: [x], "+keys+"}}"), projectRules())
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", keys, err, want)
		}
	}
}

func TestSessionEnviron(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	got := sessionEnviron([]string{"A=b", "KUBECONFIG=one" + string(os.PathListSeparator) + "/two"})
	if want := []string{"A=b", "KUBECONFIG=" + dir + "/one" + string(os.PathListSeparator) + "/two"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// shown is where a view writes to. Safe for concurrent use.
type shown struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *shown) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *shown) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.text.Reset()
	return s.text.String()
}

func testView(terminal bool, width, height int, names ...string) (v *upView, out, errs *shown) {
	out, errs = &shown{}, &shown{}
	v = &upView{ui: &progress{w: errs, terminal: terminal, color: terminal}, out: out, err: errs, size: func() (int, int) { return width, height }}
	var sessions []project.Session
	for _, n := range names {
		sessions = append(sessions, project.Session{Name: n, Target: project.Target{Text: n}})
	}
	v.addRows(sessions)
	return v, out, errs
}

func TestUpViewPlain(t *testing.T) {
	v, out, errs := testView(false, 0, 0, "a", "long")
	w := v.writer("a", false)
	for _, part := range []string{"one\ntw", "o\n\n", "three"} {
		if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	if got, want := out.take(), "a    | one\na    | two\na    | \n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	w.flush()
	w.flush()
	if got := out.take(); got != "a    | three\n" {
		t.Errorf("the rest is %q", got)
	}
	v.set("a", stageSwapped, "")
	v.step("long", &upStep{Name: "mark", Detail: "web", Microseconds: 2000})
	v.say("", "all")
	if got := errs.take(); !strings.HasPrefix(got, "long | ✓ mark     web ") || !strings.HasSuffix(got, "   2ms\nall\n") || strings.Contains(got, "\x1b") {
		t.Errorf("said %q", got)
	}
	many := bytes.Repeat([]byte("x"), longestLine+1)
	if _, err := w.Write(many); err != nil || len(out.take()) < len(many) {
		t.Error("a line without an end is kept")
	}
}

func TestUpViewTerminal(t *testing.T) {
	v, out, errs := testView(true, 40, 6, "a", "b", "c", "d", "e")
	v.set("b", stageSwapped, "")
	first := errs.take()
	if strings.Count(first, "\n") != 4 || !strings.Contains(first, "\x1b[32m✓\x1b[0m b") || !strings.Contains(first, "… and 2 more") {
		t.Errorf("shown:\n%q", first)
	}
	if _, err := v.writer("b", false).Write([]byte("\x1b[31mred\n")); err != nil {
		t.Fatal(err)
	}
	if got := out.take(); got != "\x1b[35mb |\x1b[0m \x1b[31mred\x1b[0m\n" {
		t.Errorf("a line is %q", got)
	}
	if got := errs.take(); !strings.HasPrefix(got, "\r\x1b[4A\x1b[J") {
		t.Errorf("the rows are not drawn anew: %q", got)
	}
	v.close()
	v.say("", "end")
	if got := errs.take(); !strings.HasPrefix(got, "end\n") {
		t.Errorf("at the end: %q", got)
	}
	lines := v.screenLocked(20, 24, time.Now())
	for _, line := range lines {
		if n := len([]rune(strings.NewReplacer("\x1b[32m", "", "\x1b[0m", "").Replace(line))); n > 19 {
			t.Errorf("%q has %d characters", line, n)
		}
	}
	if len(lines) != 5 {
		t.Errorf("%d lines", len(lines))
	}
}

func TestPicker(t *testing.T) {
	names := []string{"api", "web", "worker", "db"}
	cases := []struct {
		keys  string
		state pickState
		name  string
	}{
		{"\r", pickDone, "api"},
		{"\x1b[B\x1b[B\x1b[A\r", pickDone, "web"},
		{"\x1bOB\r", pickDone, "web"},
		{"\x1b[A\r", pickDone, "api"},
		{"\x1b[B\x1b[B\x1b[B\x1b[B\x1b[B\n", pickDone, "db"},
		{"w\x1b[B\r", pickDone, "worker"},
		{"WO\r", pickDone, "worker"},
		{"zz\r\x7f\x7f\r", pickDone, "api"},
		{"\x0e\x10\x0e\r", pickDone, "web"},
		{"\x1b[C\r", pickDone, "api"},
		{"w\x03", pickLeft, ""},
		{"", pickLeft, ""},
	}
	for _, c := range cases {
		p := newPicker(names, 2)
		var to shown
		state, err := runPicker(p, strings.NewReader(c.keys), &to, 20)
		if err != nil || state != c.state || state == pickDone && p.all[p.picked()] != c.name {
			t.Errorf("%q: %v, %v; want %s", c.keys, state, err, c.name)
		}
	}
	p := newPicker(names, 2)
	p.key(0x0e)
	p.key(0x0e)
	if got := p.screen(); !slices.Equal(got[:2], []string{"  web", "> worker"}) {
		t.Errorf("shown %q", got)
	}
}

func TestEndingName(t *testing.T) {
	for name, sig := range upEndings {
		if got := endingName(sig); got != name {
			t.Errorf("%v: %s, want %s", sig, got, name)
		}
	}
	if got := endingName(upGone{}); got != "terminated" {
		t.Errorf("another signal: %s", got)
	}
}
