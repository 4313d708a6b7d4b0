package project

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// plainRules are rules that are easy to break by a test: a word with "bad" in it.
func plainRules() Rules {
	port := func(text string) (string, error) {
		if strings.Contains(text, "bad") {
			return "", errors.New(text + " is no port")
		}
		return text, nil
	}
	return Rules{
		Target: func(text string) (Target, error) {
			kind, name, found := strings.Cut(text, "/")
			if !found {
				kind, name = "", text
			}
			name, _, _ = strings.Cut(name, ":")
			if name == "bad" {
				return Target{}, errors.New("target: bad")
			}
			return Target{Text: text, Kind: kind, Name: name}, nil
		},
		New: func(text string) (Target, error) {
			if strings.Contains(text, "/") {
				return Target{}, errors.New("new: no kind is named")
			}
			return Target{Text: text, Kind: "deployment", Name: text}, nil
		},
		Expose: port, Publish: port, Port: port,
	}
}

const whole = `# a comment
context: near
namespace: shop
x-mine: &defaults {env: {A: one}, no-pod-logs: true}
sessions:
  web:
    <<: *defaults
    target: deployment/web:app
    command: [go, run, .]
    dir: services/web
    expose: [3000:8080, 9090]
    env: {VERSION: 1.10, YES: yes, EMPTY: "", HERE: }
    env-file: web.env
  db:
    target: sts/db
    namespace: data
    image: postgres:17
    docker: [--shm-size, 1g]
    volumes: ["./init:/docker-entrypoint-initdb.d:ro", "data:/var/lib"]
    command: [-c, log_statement=all, 0x10, true]
  idea:
    target: other
    expose: ["8080"]
  shell:
    target: job/once
    command: make run
  waits:
    target: none
    flags: [--hold]
  fresh:
    new: hello
    expose: [8080]
    image: hello
`

func TestParse(t *testing.T) {
	file, err := Parse("/home/me/shop/.teleswap.yaml", []byte(whole), plainRules())
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, s := range file.Sessions {
		lines = append(lines, s.Name+" in "+s.Dir+": "+strings.Join(s.Args(), " "), "env "+strings.Join(s.Env, " "))
	}
	want := []string{
		"web in /home/me/shop/services/web: swap --context=near --namespace=shop --expose=3000:8080 --expose=9090 " +
			"--env-file=/home/me/shop/services/web/web.env --no-pod-logs deployment/web:app -- go run .",
		"env VERSION=1.10 YES=yes EMPTY= HERE",
		"db in /home/me/shop: swap --context=near --namespace=data sts/db --docker-run --shm-size 1g " +
			"--volume=/home/me/shop/init:/docker-entrypoint-initdb.d:ro --volume=data:/var/lib postgres:17 -c log_statement=all 0x10 true",
		"env ",
		"idea in /home/me/shop: swap --context=near --namespace=shop --expose=8080 other",
		"env ",
		"shell in /home/me/shop: swap --context=near --namespace=shop job/once -- /bin/sh -c make run",
		"env ",
		"waits in /home/me/shop: swap --context=near --namespace=shop --hold none",
		"env ",
		"fresh in /home/me/shop: swap --context=near --namespace=shop --expose=8080 --new=hello --docker-run hello",
		"env ",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

func TestParseErrors(t *testing.T) {
	session := func(lines string) string {
		return "sessions:\n  web:\n    " + strings.ReplaceAll(lines, "\n", "\n    ") + "\n"
	}
	good := session("target: web\ncommand: x")
	cases := []struct {
		name, text string
		want       []string // each the beginning of a line
	}{
		{"empty", "", []string{"f:1:1: the file is empty"}},
		{"only a comment", "# nothing\n", []string{"f:1:1: the file is empty"}},
		{"a list", "- a\n", []string{"f:1:1: the file is a list; it must be a mapping"}},
		{"a tab", "sessions:\n\tweb: {}\n", []string{"f:2:1: this is no YAML: found character that cannot start any token; indent by spaces"}},
		{"an open bracket", "sessions: [\n", []string{"f:"}},
		{"no sessions", "context: c\n", []string{"f:1:1: the file has no sessions; it names what"}},
		{"sessions empty", "sessions: {}\n", []string{"f:1:11: sessions is empty"}},
		{"sessions null", "sessions:\n", []string{"f:1:10: sessions is empty; it must be a mapping"}},
		{"two documents", good + "---\n" + good, []string{"f:5:1: a second document"}},
		{"unknown at the top", "contxt: c\n" + good, []string{`f:1:1: unknown key "contxt"; did you mean context?`}},
		{"unknown in a session", session("target: web\nexposes: [1]\ncommand: x"), []string{`f:4:5: unknown key "exposes"; did you mean expose?`}},
		{"unknown and far", session("target: web\ncommand: x\nzzzzzzzzzzzzzz: 1"), []string{`f:5:5: unknown key "zzzzzzzzzzzzzz"; known are agent-image, `}},
		{"two unknown", session("target: web\ncommand: x\nxyzzyx: 1\ncomand: 2"), []string{`f:5:5: unknown key "xyzzyx"`, `f:6:5: unknown key "comand"; did you mean command?`}},
		{"a key twice", session("target: web\ntarget: web\ncommand: x"), []string{`f:4:5: "target" is here twice, first at line 3`}},
		{"a session twice", good + "  web: {target: b, command: c}\n", []string{`f:5:3: "web" is here twice, first at line 2`}},
		{"a session's name", "sessions: {a b: {target: x, command: y}}\n", []string{`f:1:12: sessions: "a b" is no name for this`}},
		{"no target", session("command: x"), []string{"f:2:3: sessions.web has no target; name the workload"}},
		{"target and new", session("target: web\nnew: web\ncommand: x"), []string{"f:2:3: sessions.web has target and new"}},
		{"a bad new", session("new: deployment/web\ncommand: x"), []string{"f:3:10: new: no kind is named"}},
		{"a new one's node", session("new: web\nnode: n\ncommand: x"), []string{"f:4:11: web: node is for what is swapped"}},
		{"nothing for a new one", session("new: web"), []string{"f:2:3: web: there is no command and no image"}},
		{"target of a wrong type", session("target: [a]\ncommand: x"), []string{"f:3:13: sessions.web.target is a list; it must be a text"}},
		{"a bad target", session("target: bad\ncommand: x"), []string{"f:3:13: target: bad"}},
		{"no command", session("target: web"), []string{"f:2:3: web: there is no command and no image"}},
		{"an empty command", session("target: web\ncommand: []"), []string{"f:4:14: sessions.web.command is empty"}},
		{"an empty program", session("target: web\ncommand: ['']"), []string{"f:4:14: web: the command's first word is empty"}},
		{"a list in a command", session("target: web\ncommand: [sleep, [5]]"), []string{"f:4:22: sessions.web.command.1 is a list; it must be a number or a text or true or false"}},
		{"a text for a container", session("target: web\nimage: i\ncommand: a b"), []string{"f:5:14: web: with image the command is"}},
		{"docker without an image", session("target: web\ncommand: x\ndocker: [-t]"), []string{"f:5:13: web: docker is for a container"}},
		{"a bad port", session("target: web\ncommand: x\nexpose: [1, bad]"), []string{"f:5:17: expose: bad is no port"}},
		{"a port twice", session("target: web\ncommand: x\npublish: [80, 80]"), []string{"f:5:19: publish: 80 is given twice"}},
		{"a port of two", good + "  b: {target: b, command: c, publish: [1]}\n  c: {target: c, command: c, publish: [1]}\n", []string{"f:6:39: c: publish: session b publishes 1 already"}},
		{"a variable's name", session("target: web\ncommand: x\nenv: {A B: c}"), []string{`f:5:11: sessions.web.env: "A B" is no name for this; a variable's`}},
		{"a variable's value", session("target: web\ncommand: x\nenv: {A: [b]}"), []string{"f:5:14: sessions.web.env.A is a list; it must be a number or a text or true or false"}},
		{"a choice", session("target: web\ncommand: x\norder: last"), []string{`f:5:12: sessions.web.order is "last"; it can be scale-first`}},
		{"itself", "sessions: &a\n  web: *a\n", []string{"f:2:8: *a contains itself"}},
		{"merged text", session("target: web\ncommand: x\n<<: y"), []string{"f:5:9: << takes in a mapping"}},
		{"a key that is none", "? [a]\n: b\n" + good, []string{"f:1:3: a key is a word"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("f", []byte(c.text), plainRules())
			var problems Problems
			if !errors.As(err, &problems) {
				t.Fatalf("error %v, want problems", err)
			}
			got := strings.Split(err.Error(), "\n")
			ok := len(got) == len(c.want)
			for i := range c.want {
				ok = ok && strings.HasPrefix(got[i], c.want[i])
			}
			if !ok {
				t.Errorf("got\n%s\nwant\n%s", err, strings.Join(c.want, "\n"))
			}
		})
	}
}

// TestSchemaAndParserAgree holds each key of the schema to what is made of it, and the other way round.
func TestSchemaAndParserAgree(t *testing.T) {
	var schema struct {
		Schema     string                     `json:"$schema"`
		ID         string                     `json:"$id"`
		Properties map[string]json.RawMessage `json:"properties"`
		Defs       struct {
			Session struct {
				Properties map[string]struct {
					Description string `json:"description"`
				} `json:"properties"`
			} `json:"session"`
		} `json:"$defs"`
	}
	if err := json.Unmarshal(Schema, &schema); err != nil {
		t.Fatal(err)
	}
	if schema.Schema != "https://json-schema.org/draft/2020-12/schema" || schema.ID != SchemaURL {
		t.Errorf("the schema is of %s, at %s", schema.Schema, schema.ID)
	}
	if got := slices.Sorted(maps.Keys(schema.Properties)); !slices.Equal(got, []string{"context", "namespace", "sessions"}) {
		t.Errorf("at the top the schema has %v", got)
	}
	known := slices.Sorted(maps.Keys(schema.Defs.Session.Properties))
	read := slices.Collect(maps.Keys(decoders))
	read = slices.Sorted(slices.Values(slices.AppendSeq(read, maps.Keys(portKeys))))
	if !slices.Equal(known, read) {
		t.Fatalf("the schema has %v,\nthe parser reads %v", known, read)
	}
	values := map[string]string{
		"command": "[other]", "docker": "[-t]", "volumes": "['a:b']", "expose": "[1]", "publish": "[1]", "to-pod": "[1]", "from-pod": "[1]",
		"env": "{A: b}", "order": "scale-first", "skip-init": "true", "lifecycle-hooks": "true", "no-pod-logs": "true", "no-sandbox": "true",
		"agent-pull-policy": "Never", "flags": "[--x]",
	}
	parse := func(key, value string) Session {
		t.Helper()
		keys := map[string]string{"target": "web", "command": "[x]", "image": "i"}
		if key != "" {
			keys[key] = value
		}
		if key == "new" {
			delete(keys, "target")
		}
		text := "sessions:\n  s:\n"
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			text += "    " + k + ": " + keys[k] + "\n"
		}
		file, err := Parse("/f", []byte(text), plainRules())
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		s := file.Sessions[0]
		s.where, s.at = nil, Position{}
		return s
	}
	for _, key := range known {
		if schema.Defs.Session.Properties[key].Description == "" {
			t.Errorf("the schema does not say what %s is", key)
		}
		value := values[key]
		if value == "" {
			value = "other"
		}
		if reflect.DeepEqual(parse(key, value), parse("", "")) {
			t.Errorf("%s is accepted and changes nothing", key)
		}
	}
}

func TestClashes(t *testing.T) {
	text := `sessions:
  a: {target: deployment/web, command: c}
  b: {target: web, command: c, namespace: shop}
  c: {target: statefulset/web, command: c}
  d: {target: web, command: c, context: far}
  e: {target: deployment/web:sidecar, command: c, context: far}
  f: {new: web, command: c, namespace: other}
  g: {new: web, command: c, namespace: other}
`
	file, err := Parse("f", []byte(text), plainRules())
	if err != nil {
		t.Fatal(err)
	}
	place := func(p Place) Place {
		if p.Context == "" {
			p.Context = "near"
		}
		if p.Namespace == "" {
			p.Namespace = map[string]string{"near": "shop", "far": "default"}[p.Context]
		}
		return p
	}
	err = Clashes(file.Sessions, place)
	want := []string{"f:3:15: b swaps web in namespace shop, and so does session a;", "f:6:15: e swaps deployment/web:sidecar in namespace default, and so does session d;", "f:8:12: g swaps web in namespace other, and so does session f;"}
	if err == nil || strings.Count(err.Error(), "\n") != 2 || !strings.HasPrefix(err.Error(), want[0]) || !strings.Contains(err.Error(), "\n"+want[1]) || !strings.Contains(err.Error(), "\n"+want[2]) {
		t.Errorf("got %v, want %v", err, want)
	}
	if err := Clashes(file.Sessions[2:4], place); err != nil {
		t.Error(err)
	}
}

func TestReady(t *testing.T) {
	dir := t.TempDir()
	text := `sessions:
  a: {target: a, command: [sh]}
  b: {target: b, command: [no-such-program-at-all]}
  c: {target: c, command: [sh], dir: gone}
  d: {target: d, command: [sh], env-file: [., none.env]}
  e: {target: e, command: [./none], env-json: no/x.json}
  f: {target: f, image: i}
`
	path := filepath.Join(dir, Name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	below := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(below, 0o700); err != nil {
		t.Fatal(err)
	}
	if found, err := Find(below); err != nil || found != path {
		t.Errorf("found %q, %v", found, err)
	}
	if _, err := Find(filepath.Dir(dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("found above: %v", err)
	}
	file, err := Read(path, plainRules())
	if err != nil {
		t.Fatal(err)
	}
	err = Ready(file.Sessions)
	for _, want := range []string{
		":3:27: b: the command cannot be run: no-such-program-at-all:", ":4:38: c: there is no folder " + dir + "/gone",
		":5:43: d: env-file " + dir + ": it is a folder", ":5:43: d: env-file " + dir + "/none.env: no such file",
		":6:47: e: env-json: there is no folder " + dir + "/no", ":6:27: e: the command cannot be run",
	} {
		if err == nil || !strings.Contains(err.Error(), path+want) {
			t.Errorf("got\n%v\nwant %s", err, want)
		}
	}
	if strings.Count(err.Error(), "\n") != 5 {
		t.Errorf("too many:\n%v", err)
	}
}

func TestPick(t *testing.T) {
	file := &File{Path: "f", Sessions: []Session{{Name: "a"}, {Name: "b"}}}
	near := func(string, []string) string { return "" }
	if got, err := file.Pick(nil, near); err != nil || len(got) != 2 {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := file.Pick([]string{"b", "a"}, near); err != nil || got[0].Name != "b" || got[1].Name != "a" {
		t.Errorf("%v, %v", got, err)
	}
	for _, names := range [][]string{{"c"}, {"a", "a"}} {
		if got, err := file.Pick(names, near); err == nil {
			t.Errorf("%v: %v", names, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(whole)
	f.Add("a: &a [*a]")
	f.Add("sessions: {a: {target: b, env: {A: !!float .nan, B: 2001-01-01, C: 0x1F}, command: [c]}}")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := Parse("f", []byte(text), plainRules())
		var problems Problems
		if err != nil && !errors.As(err, &problems) {
			t.Fatalf("an error that is no problem of the file: %v", err)
		}
		if err != nil {
			return
		}
		for _, s := range file.Sessions {
			if s.Name == "" || s.Target.Text == "" {
				t.Errorf("an odd session: %+v", s)
			}
		}
	})
}
