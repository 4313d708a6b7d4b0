package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

// envScene has every way in which a variable comes to a container, and values that are easily broken.
var envScene = `
apiVersion: v1
kind: Secret
metadata: {name: words}
data: {SECRET_WORD: ` + "cGFzczp3b3JkPSciIg==" + `, ANOTHER: YW5vdGhlcgo=}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: words}
data:
  ENV: test
  FROM_MAP: "a = b; 'c' \"d\" $HOME \\n ` + "`e`" + `"
  LINES: "one\n\ntwo\n"
  UNICODE: "žluťoučký 🐎 \u00a0end"
  EMPTY: ""
  LONG: "` + strings.Repeat("0123456789abcdef", 6400) + `"
---
apiVersion: v1
kind: Service
metadata: {name: other}
spec: {selector: {app: nobody}, ports: [{name: web, port: 8081}, {name: dns, port: 53, protocol: UDP}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}, annotations: {note: "a note"}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: app
        image: PROBE
        imagePullPolicy: IfNotPresent
        args: [-listen, ":8080", -name, original]
        ports: [{name: http, containerPort: 8080}]
        envFrom: [{prefix: P_, secretRef: {name: words}}, {configMapRef: {name: words}}]
        env:
        - {name: PLAIN, value: "plain=1"}
        - {name: REFERS, value: "$(PLAIN) and $$(PLAIN)"}
        - {name: TZ, value: Asia/Tokyo}
        - {name: SECRET_WORD, valueFrom: {secretKeyRef: {name: words, key: SECRET_WORD}}}
        - {name: ONE_OF_MAP, valueFrom: {configMapKeyRef: {name: words, key: LINES}}}
        - {name: NOT_THERE, valueFrom: {configMapKeyRef: {name: words, key: nothing, optional: true}}}
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
        - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: NODE_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
        - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
        - {name: NOTE, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['note']"}}}
        - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
        - {name: dotted.name-1, value: odd}
        resources: {limits: {memory: 64Mi}}
        readinessProbe: {httpGet: {path: /self, port: http}, periodSeconds: 1}
        securityContext: {allowPrivilegeEscalation: false, runAsNonRoot: true, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
`

// envWorld is the scene, up, with a client pod.
func envWorld(w *scene.World) *scene.Client {
	w.T.Helper()
	w.Apply(envScene)
	c := w.NewClient()
	w.WaitAvailable()
	w.Freeze()
	c.WaitService("http://web/api")
	return c
}

// variables is an environment by name; a name that comes twice fails the test.
func variables(t *testing.T, list []string) map[string]string {
	t.Helper()
	env := map[string]string{}
	for _, kv := range list {
		name, value, _ := strings.Cut(kv, "=")
		if _, twice := env[name]; twice {
			t.Errorf("%s is there twice", name)
		}
		env[name] = value
	}
	return env
}

// sameAsOriginal compares what the process has of the pod with what the original had. Its own name and address
// are the other pod's.
func sameAsOriginal(t *testing.T, original, local map[string]string, pod, ip string) {
	t.Helper()
	for name, want := range original {
		switch name {
		case "PATH", "HOME": // the laptop's, on purpose
			continue
		case "POD_NAME", "HOSTNAME":
			want = pod
		case "POD_IP":
			want = ip
		}
		if got, ok := local[name]; !ok || got != want {
			t.Errorf("%s is %.200q (there: %v), in the original %.200q", name, got, ok, want)
		}
	}
}

// TestFidelityEnv compares the environment of the process with that of the original.
func TestFidelityEnv(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		c := envWorld(w)
		original := variables(t, c.Far("http://web").Env())
		for name, least := range map[string]int{"LONG": 100 << 10, "LINES": 9, "P_SECRET_WORD": 10, "OTHER_SERVICE_HOST": 7, "MEMORY": 2, "NODE_IP": 7, "dotted.name-1": 3} {
			if len(original[name]) < least {
				t.Fatalf("the original has %s=%.50q: the test would prove little", name, original[name])
			}
		}
		w.Env = append(w.Env, "PLAIN=the laptop's", "ONLY_HERE=yes")
		run, far := swapWeb(w, c)
		local := variables(t, far.Env())
		pod := w.Pods(scene.SessionLabel)[0]
		sameAsOriginal(t, original, local, pod.Name, pod.Status.PodIP)
		if local["ONLY_HERE"] != "yes" || local["HOME"] != w.Home {
			t.Errorf("ONLY_HERE=%q, HOME=%q: want the laptop's", local["ONLY_HERE"], local["HOME"])
		}
		far.Exit(0)
		run.WaitEnd(0)
	})
}

// TestFidelityEnvFlags has the user choose what the process gets.
func TestFidelityEnvFlags(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		c := envWorld(w)
		original := variables(t, c.Far("http://web").Env())
		long := strings.Repeat("x", 128<<10)
		file := w.File("my.env", "# mine\nFROM_FILE='quoted' \nPLAIN=file\nONLY_HERE\n")
		out := filepath.Join(w.Home, "out.json")
		w.Env = append(w.Env, "ONLY_HERE=yes", "UNICODE=the laptop's")
		run := w.Teleswap(append([]string{
			"swap", "web", "--env", "PLAIN=a=b\nc\xff", "--env-file", file, "--env", "TOO_LONG=" + long[:len(long)-100],
			"--env", "PATH=/usr/bin:/bin:/mine", "--env-include", "*[A-Z]*", "--env-exclude", "UNI*", "--env-exclude", "POD_*", "--env-json", out, "--",
		}, probe(w)...)...)
		run.WaitSwapped()
		far := c.Far("http://web")
		far.WaitLocal("local")
		local := variables(t, far.Env())
		for name, want := range map[string]string{
			"PLAIN":     "a=b\nc\ufffd", // the probe's own JSON has no other way to say it
			"FROM_FILE": "'quoted' ", "ONLY_HERE": "yes", "PATH": "/usr/bin:/bin:/mine", "UNICODE": "the laptop's",
			"LONG": original["LONG"], "TOO_LONG": long[:len(long)-100],
		} {
			if local[name] != want {
				t.Errorf("%s is %.100q, want %.100q", name, local[name], want)
			}
		}
		for _, name := range []string{"dotted.name-1", "POD_IP", "POD_NAME"} {
			if got, ok := local[name]; ok {
				t.Errorf("%s=%q is there, and was left out", name, got)
			}
		}
		contains(t, "standard error", run.Stderr(), "! PLAIN has bytes that are no UTF-8")
		data, err := os.ReadFile(out)
		var written map[string]string
		if err == nil {
			err = json.Unmarshal(data, &written)
		}
		if err != nil {
			t.Fatal(err)
		}
		if written["LINES"] != "one\n\ntwo\n" || written["FROM_FILE"] != "'quoted' " || written["ONLY_HERE"] != "yes" || written["HOME"] != "" {
			t.Errorf("the file has %d variables, LINES=%q, FROM_FILE=%q, HOME=%q", len(written), written["LINES"], written["FROM_FILE"], written["HOME"])
		}
		info, err := os.Stat(out)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the file's mode is %v, %v, want 0600", info.Mode(), err)
		}
		far.Exit(0)
		run.WaitEnd(0)
	})
}

// TestFidelityEnvTooLong gives a file with variables that the kernel gives to no process.
func TestFidelityEnvTooLong(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		c := envWorld(w)
		fits, long := strings.Repeat("x", 128<<10-len("FITS=")-1), strings.Repeat("y", 128<<10-len("LONG=")+1)
		file := w.File("long.env", "FITS="+fits+"\nLONG="+long+"\n")
		run := w.Teleswap(append([]string{"swap", "web", "--env-file", file, "--"}, probe(w)...)...)
		run.WaitSwapped()
		far := c.Far("http://web")
		far.WaitLocal("local")
		local := variables(t, far.Env())
		if _, there := local["LONG"]; there || local["FITS"] != fits {
			t.Errorf("LONG is there: %v; FITS has %d bytes, want %d", there, len(local["FITS"]), len(fits))
		}
		contains(t, "standard error", run.Stderr(), "! the process does not get LONG: the kernel takes 128 KiB of a variable")
		far.Exit(0)
		run.WaitEnd(0)
		// And the whole: nothing of it may start, and nothing is left behind.
		var lines []string
		for i := range 30 {
			lines = append(lines, "V"+string(rune('a'+i%26))+strings.Repeat("_", i/26)+"="+fits)
		}
		file = w.File("whole.env", strings.Join(lines, "\n"))
		run = w.Start(scene.How{Wrap: []string{"prlimit", "--stack=8388608", "--"}},
			append([]string{w.Lab.Bin.Teleswap, "swap", "web", "--env-file", file, "--"}, probe(w)...)...)
		run.WaitEnd(1)
		contains(t, "standard error", run.Stderr(), "the kernel takes", "--env-exclude", "(127 KiB)")
		if slices.ContainsFunc(strings.Fields(run.Stderr()), func(f string) bool { return strings.Contains(f, "xxxx") }) {
			t.Error("a value is on standard error")
		}
		w.WaitUnchanged()
	})
}
