package debugger

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// request is one on a machine that has all tools.
func request(command string) Request {
	return Request{
		Argv: strings.Fields(command), Name: "teleswap: service-a", Output: "/tmp/out",
		Find: func(name string) (string, error) { return "/bin/" + name, nil },
		IsGo: func(command string) bool { return command == "./server" },
		Try:  func(...string) bool { return true },
	}
}

func TestMake(t *testing.T) {
	const dlv = " --headless --listen=127.0.0.1:2345 --api-version=2 --accept-multiclient --continue"
	for _, c := range []struct {
		command, want string
		port          uint16
	}{
		{"go run .", "/bin/dlv debug ." + dlv + " --output=/tmp/out", 2345},
		{"go run ./cmd/x -v a", "/bin/dlv debug ./cmd/x" + dlv + " --output=/tmp/out -- -v a", 2345},
		{"go run main.go util.go arg", "/bin/dlv debug main.go util.go" + dlv + " --output=/tmp/out -- arg", 2345},
		{"go run -race -tags a,b . -x", "/bin/dlv debug ." + dlv + " --output=/tmp/out --build-flags=-race -tags a,b -- -x", 2345},
		{"go run --tags=a .", "/bin/dlv debug ." + dlv + " --output=/tmp/out --build-flags=--tags=a", 2345},
		{"./server -port 80", "/bin/dlv exec ./server" + dlv + " -- -port 80", 2345},
		{"node server.js --inspect", "node --inspect=127.0.0.1:9229 server.js --inspect", 9229},
		{"/usr/bin/nodejs -r x a.js", "/usr/bin/nodejs --inspect=127.0.0.1:9229 -r x a.js", 9229},
		{"python3 app.py -x", "python3 -m debugpy --listen 127.0.0.1:5678 app.py -x", 5678},
		{"python3.12 -u -X dev -m flask run", "python3.12 -u -X dev -m debugpy --listen 127.0.0.1:5678 -m flask run", 5678},
		{"java -jar a.jar", "java -agentlib:jdwp=transport=dt_socket,server=y,suspend=n,address=127.0.0.1:5005 -jar a.jar", 5005},
	} {
		r := request(c.command)
		argv := slices.Clone(r.Argv)
		plan, err := Make(r)
		if err != nil {
			t.Errorf("%s: %v", c.command, err)
			continue
		}
		if got := strings.Join(plan.Argv, " "); got != c.want || plan.Port != c.port || !slices.Equal(r.Argv, argv) {
			t.Errorf("%s: got %s at %d\nwant %s at %d", c.command, got, plan.Port, c.want, c.port)
		}
		_, object, _ := strings.Cut(plan.Attach[1], `"configurations": `)
		var launch map[string]any
		if err := json.Unmarshal([]byte(object), &launch); err != nil || launch["name"] != r.Name || launch["request"] != "attach" {
			t.Errorf("%s: %s: %v", c.command, object, err)
		}
	}
}

func TestMakeOnAnotherPort(t *testing.T) {
	for _, command := range []string{"go run .", "./server", "node a.js", "python3 a.py", "java A"} {
		r := request(command)
		r.Port = 4000
		plan, err := Make(r)
		if err != nil || plan.Port != 4000 || !strings.Contains(strings.Join(plan.Argv, " "), "127.0.0.1:4000") ||
			!strings.Contains(strings.Join(plan.Attach, "\n"), "4000") {
			t.Errorf("%s: %+v, %v", command, plan, err)
		}
	}
}

// TestQuoted: flags with spaces reach the go command whole.
func TestQuoted(t *testing.T) {
	if got, want := quoted([]string{"-ldflags", "-s -w", "-race"}), `-ldflags '-s -w' -race`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestMakeRefuses(t *testing.T) {
	for command, want := range map[string]string{
		"./run.sh":              "--publish PORT",
		"npm start":             "`go run`, Go programs, node, python and java",
		"go test ./...":         "go run PACKAGE",
		"go run":                "go run PACKAGE",
		"go run -race":          "no package",
		"go run -C x .":         "-C",
		"go run example.com@v1": "install it",
		"dlv debug .":           "--publish 2345",
		"node --inspect a.js":   "--publish 9229",
		"python3 -u":            "no program",
		"java -agentlib:jdwp=x": "-agentlib",
	} {
		if _, err := Make(request(command)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", command, err, want)
		}
	}
	r := request("go run .")
	r.Find = func(string) (string, error) { return "", exec.ErrNotFound }
	if _, err := Make(r); err == nil || !strings.Contains(err.Error(), "go install github.com/go-delve/delve/cmd/dlv@latest") {
		t.Errorf("without delve: %v", err)
	}
	r = request("python3 a.py")
	r.Try = func(...string) bool { return false }
	if _, err := Make(r); err == nil || !strings.Contains(err.Error(), "python3 -m pip install debugpy") {
		t.Errorf("without debugpy: %v", err)
	}
}
