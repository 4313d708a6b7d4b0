package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/teleswap/teleswap/e2e/scene"
)

// filesObjects are what volumes are made of; 100,000 bytes are in one of the ConfigMaps.
func filesObjects() string {
	return `
apiVersion: v1
kind: Secret
metadata: {name: files}
data: {binary: AAECA/8KDQA=}
stringData: {password: "` + secretWord + `", "with.dots_and-dashes": "x\n"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: files}
data: {a: "version 1", b: "version 1", app.conf: "listen = 1\n# ünïcödé\n", long: "` + strings.Repeat("0123456789", 10000) + `"}
binaryData: {blob: /+7dzA==}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: live}
data: {a: "version 1", b: "version 1"}
---
apiVersion: v1
kind: Secret
metadata: {name: live}
stringData: {a: "version 1", b: "version 1"}
`
}

// filesPart mounts every kind of volume that the standard "restricted" allows, at paths that a
// laptop has and at others that it has not.
func filesPart() part {
	return part{
		objects: filesObjects(),
		pod: `
securityContext: {fsGroup: 65532}
initContainers:
- name: first
  image: PROBE
  imagePullPolicy: IfNotPresent
  args: [-write, "/cache/from-init=hello from init"]
  volumeMounts: [{name: cache, mountPath: /cache}]
  securityContext: RESTRICTED
volumes:
- {name: cache, emptyDir: {}}
- {name: memory, emptyDir: {medium: Memory}}
- {name: secret, secret: {secretName: files, defaultMode: 288}}
- {name: items, secret: {secretName: files, items: [{key: password, path: deep/er/pass, mode: 256}, {key: binary, path: bin}]}}
- {name: config, configMap: {name: files}}
- {name: optional, configMap: {name: there-is-none, optional: true}}
- name: info
  downwardAPI:
    items:
    - {path: labels, fieldRef: {fieldPath: metadata.labels}}
    - {path: name, fieldRef: {fieldPath: metadata.name}}
    - {path: uid, fieldRef: {fieldPath: metadata.uid}}
    - {path: cpu, resourceFieldRef: {containerName: app, resource: limits.cpu, divisor: 1m}}
- name: projected
  projected:
    sources:
    - secret: {name: files, items: [{key: password, path: password}]}
    - configMap: {name: files, items: [{key: a, path: conf/a}]}
    - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
`,
		app: `
resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: 750m, memory: 256Mi}}
volumeMounts:
- {name: cache, mountPath: /cache}
- {name: cache, mountPath: /cache-read-only, readOnly: true}
- {name: cache, mountPath: /a/sub, subPath: sub/folder}
- {name: memory, mountPath: /memory}
- {name: secret, mountPath: /etc/app/secret, readOnly: true}
- {name: items, mountPath: /etc/app/items}
- {name: config, mountPath: /etc/ssl/certs}
- {name: config, mountPath: /srv/app/app.conf, subPath: app.conf}
- {name: config, mountPath: /etc/issue, subPath: a}
- {name: config, mountPath: /cache/nested}
- {name: optional, mountPath: /etc/optional}
- {name: info, mountPath: /etc/podinfo}
- {name: projected, mountPath: /var/lib/app/projected}
`,
	}
}

// filesPaths are where they are.
func filesPaths() []string {
	return []string{
		"/cache", "/cache-read-only", "/a/sub", "/memory", "/etc/app/secret", "/etc/app/items", "/etc/ssl/certs", "/srv/app/app.conf",
		"/etc/issue", "/cache/nested", "/etc/optional", "/var/lib/app/projected",
	}
}

// TestFidelityFiles compares every mounted volume: names, modes, links, contents.
func TestFidelityFiles(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		r := newRow(t, w, filesPart())
		before := r.laptopFiles()
		var questions []question
		for _, path := range filesPaths() {
			questions = append(questions, ask("walk", "path", path))
		}
		// What cannot be written to in the pod cannot be here, and for the same reason.
		for _, path := range []string{"/cache-read-only/x", "/etc/app/secret/x", "/etc/ssl/certs/x"} {
			questions = append(questions, ask("fileop", "op", "write", "path", path, "text", "x"))
		}
		r.compare(questions)
		r.checkPodInfo()
		r.checkWrites()
		if after := r.laptopFiles(); after != before {
			t.Errorf("outside the sandbox, before:\n%s\nduring:\n%s", before, after)
		}
		r.end()
		if after := r.laptopFiles(); after != before {
			t.Errorf("on the laptop, before:\n%s\nafter:\n%s", before, after)
		}
	})
}

// laptopFiles is what the laptop itself has where the pod has its volumes.
func (r *row) laptopFiles() string {
	r.t.Helper()
	return r.onLaptop("sh", "-c", `for p in "$@"; do ls -ld "$p"; test ! -f "$p" || cat "$p"; done 2>&1; ls /etc/ssl/certs | wc -l`, "sh",
		"/cache", "/cache-read-only", "/a", "/memory", "/etc/app", "/srv", "/srv/app", "/etc/issue", "/etc/optional", "/etc/podinfo", "/var/lib/app", "/etc")
}

// checkPodInfo compares the downwardAPI's files with the pod that they describe: the agent's.
func (r *row) checkPodInfo() {
	r.t.Helper()
	for file, want := range map[string]string{"name": r.agentPod.Name, "uid": string(r.agentPod.UID), "cpu": "750"} {
		if got := r.local.File("/etc/podinfo/" + file); got != want {
			r.t.Errorf("/etc/podinfo/%s is %q, want %q", file, got, want)
		}
	}
	if got := r.local.File("/etc/podinfo/labels"); !strings.Contains(got, `app="app"`) {
		r.t.Errorf("/etc/podinfo/labels is %q, want the pod's labels", got)
	}
}

// checkWrites writes where the pod may write, with everything that a program does to files.
func (r *row) checkWrites() {
	r.t.Helper()
	must := func(o scene.Outcome) {
		r.t.Helper()
		if !o.OK {
			r.t.Errorf("%+v", o)
		}
	}
	for _, dir := range []string{"/cache", "/memory", "/a/sub"} {
		must(r.local.FileOp("mkdir", dir+"/new/er", ""))
		must(r.local.FileOp("write", dir+"/new/er/file", "one\n"))
		must(r.local.FileOp("append", dir+"/new/er/file", "two\n"))
		must(r.local.FileOp("rename", dir+"/new/er/file", dir+"/new/moved"))
		must(r.local.FileOp("link", dir+"/new/link", "moved"))
		must(r.local.FileOp("chmod", dir+"/new/moved", "600"))
		if got := r.local.File(dir + "/new/link"); got != "one\ntwo\n" {
			r.t.Errorf("%s/new/link is %q", dir, got)
		}
		if o := r.local.FileOp("stat", dir+"/new/moved", ""); o.Body != "-rw------- 8" {
			r.t.Errorf("stat %s/new/moved: %+v", dir, o)
		}
		must(r.local.FileOp("remove", dir+"/new", ""))
		if o := r.local.FileOp("stat", dir+"/new", ""); o.Errno != "ENOENT" {
			r.t.Errorf("stat of what was removed: %+v", o)
		}
	}
	// One volume, mounted three times.
	must(r.local.FileOp("write", "/a/sub/seen", "by all"))
	for _, path := range []string{"/cache/sub/folder/seen", "/cache-read-only/sub/folder/seen"} {
		if got := r.local.File(path); got != "by all" {
			r.t.Errorf("%s is %q", path, got)
		}
	}
}

// TestFidelityFilesOfTheNode mounts what "restricted" forbids: a folder of the node, and a
// PersistentVolume in one.
func TestFidelityFilesOfTheNode(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		host, volume := nodeFolder(t, w, "host"), nodeFolder(t, w, "pv")
		for path, text := range map[string]string{"file": "of the node\n", "folder/deep": "deeper\n"} {
			path = filepath.Join(host, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		w.Enforce("privileged")
		r := newRow(t, w, part{
			objects: claim(volume),
			pod:     "volumes:\n- {name: host, hostPath: {path: " + host + "}}\n- {name: claim, persistentVolumeClaim: {claimName: claim}}",
			app: `
volumeMounts:
- {name: host, mountPath: /node}
- {name: host, mountPath: /node-file, subPath: file, readOnly: true}
- {name: claim, mountPath: /claim}`,
		})
		r.compare([]question{ask("walk", "path", "/node"), ask("walk", "path", "/node-file"), ask("walk", "path", "/claim")})
		r.checkClaim(volume)
		r.end()
	})
}

// claim is a PersistentVolume in a folder of the node, and a claim to it.
func claim(folder string) string {
	return `
apiVersion: v1
kind: PersistentVolume
metadata: {name: NAMESPACE}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteMany]
  storageClassName: ""
  claimRef: {namespace: NAMESPACE, name: claim}
  hostPath: {path: ` + folder + `}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim}
spec:
  accessModes: [ReadWriteMany]
  storageClassName: ""
  volumeName: NAMESPACE
  resources: {requests: {storage: 1Gi}}
`
}

// checkClaim moves 100 MiB through the claim, both ways, and lists 10,000 files.
func (r *row) checkClaim(folder string) {
	r.t.Helper()
	const size = "104857600"
	wrote := r.local.Do("fileop", "op", "write", "path", "/claim/big", "n", size, "limit", "110s")
	read := r.local.Do("fileop", "op", "sum", "path", "/claim/big", "limit", "110s")
	if !wrote.OK || !read.OK || wrote.Body != read.Body || !strings.HasPrefix(wrote.Body, size+" ") {
		r.t.Errorf("wrote %+v, read %+v", wrote, read)
	}
	r.t.Logf("100 MiB written and synced in %.0f ms, read in %.0f ms", wrote.Milliseconds, read.Milliseconds)
	// What lies on the node is what was written.
	info, err := os.Stat(filepath.Join(folder, "big"))
	if err != nil || fmt.Sprint(info.Size()) != size {
		r.t.Errorf("on the node: %v, %v", info, err)
	}
	many := filepath.Join(folder, "many")
	if err := os.Mkdir(many, 0o777); err != nil {
		r.t.Fatal(err)
	}
	for i := range 10_000 {
		if err := os.WriteFile(filepath.Join(many, fmt.Sprintf("file-%05d", i)), nil, 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
	few := filepath.Join(folder, "few")
	if err := os.MkdirAll(few, 0o777); err != nil {
		r.t.Fatal(err)
	}
	for i := range 100 {
		if err := os.WriteFile(filepath.Join(few, fmt.Sprintf("file-%05d", i)), nil, 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
	short := r.local.FileOp("list", "/claim/few", "")
	long := r.local.FileOp("list", "/claim/many", "")
	if long.Body != "10000" || short.Body != "100" {
		r.t.Errorf("listed %+v and %+v, want 10000 and 100 files", long, short)
	}
	r.t.Logf("listed 100 files in %.1f ms, 10,000 in %.1f ms", short.Milliseconds, long.Milliseconds)
	// A listing that asks once a file takes a hundred times as long for a hundred times the files,
	// each a round trip: it must take less than one round trip a file. The bench has the times.
	trip := r.local.FileOp("stat", "/claim/few/none", "")
	if long.Milliseconds > trip.Milliseconds*10_000/2 {
		r.t.Errorf("10,000 files took %.0f ms, a question about one %.2f ms: the listing asks for each", long.Milliseconds, trip.Milliseconds)
	}
}

// TestFidelityLiveFiles changes what volumes are made of, and files in volumes that two containers share.
func TestFidelityLiveFiles(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		r := newRow(t, w, livePart())
		paths := []string{"/live/config", "/live/secret", "/live/projected"}
		want := map[string][]string{}
		for _, path := range paths {
			r.original.Ask("watch", "path", path)
		}
		r.change("version 2")
		for _, path := range paths {
			r.waitVersion(r.originalPod.Name, r.original, path, "2")
			want[path] = swapOfData(r.events(r.original, path))
		}
		r.swap()
		for _, path := range paths {
			r.local.Ask("watch", "path", path)
		}
		torn := make(chan string, 1)
		go func() { torn <- r.tornReads("/live/config") }()
		r.change("version 3")
		for _, path := range paths {
			r.waitVersion(r.agentPod.Name, r.local, path, "3")
			if got := swapOfData(r.events(r.local, path)); strings.Join(got, ", ") != strings.Join(want[path], ", ") {
				t.Errorf("%s: inotify tells %v, in the pod %v", path, got, want[path])
			}
		}
		if got := <-torn; got != "" {
			t.Error(got)
		}
		r.shareFiles()
		r.change("version 1") // as the world was frozen
		r.end()
	})
}

func livePart() part {
	const container = `
- name: sidecar
  image: PROBE
  imagePullPolicy: IfNotPresent
  args: [-listen, ":7070", -name, sidecar]
  volumeMounts: [{name: shared, mountPath: /other/place}]
  securityContext: RESTRICTED`
	return part{
		objects: filesObjects(),
		pod: `
volumes:
- {name: shared, emptyDir: {}}
- {name: config, configMap: {name: live}}
- {name: secret, secret: {secretName: live}}
- name: projected
  projected:
    sources:
    - configMap: {name: live}
    - serviceAccountToken: {path: token, expirationSeconds: 3600}`,
		app: `
volumeMounts:
- {name: shared, mountPath: /shared}
- {name: config, mountPath: /live/config}
- {name: secret, mountPath: /live/secret}
- {name: projected, mountPath: /live/projected}`,
		containers: container,
	}
}

// change writes new values into the ConfigMap and the Secret.
func (r *row) change(value string) {
	r.t.Helper()
	patch, err := json.Marshal(map[string]any{"data": map[string]string{"a": value, "b": value}})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, kube := r.t.Context(), r.w.Lab.Kube.CoreV1()
	if _, err := kube.ConfigMaps(r.w.Namespace).Patch(ctx, "live", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		r.t.Fatal(err)
	}
	patch = []byte(strings.Replace(string(patch), `"data"`, `"stringData"`, 1))
	if _, err := kube.Secrets(r.w.Namespace).Patch(ctx, "live", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *row) waitVersion(pod string, f scene.Far, path, version string) {
	r.t.Helper()
	r.w.EventuallyInVolume(pod, path+" to be of version "+version, func() string {
		if got := f.File(path + "/a"); !strings.HasSuffix(got, " "+version) {
			return fmt.Sprintf("%q", got)
		}
		return ""
	})
}

func (r *row) events(f scene.Far, path string) []string {
	r.t.Helper()
	var events []string
	status, body, _ := strings.Cut(f.Ask("watch", "path", path), " ")
	if err := json.Unmarshal([]byte(body), &events); err != nil {
		r.t.Fatalf("events of %s: %s %s", path, status, body)
	}
	return events
}

// swapOfData are the events that a program waits for to read its configuration again.
func swapOfData(events []string) []string {
	var found []string
	for _, e := range events {
		if strings.HasSuffix(e, "..data") {
			found = append(found, e)
		}
	}
	return found
}

// tornReads reads on while a version gives way to the next.
func (r *row) tornReads(dir string) string {
	var got struct{ Reads, Torn, Versions int }
	_, body, _ := strings.Cut(r.local.Ask("torn", "path", dir, "a", "a", "b", "b", "limit", "90s"), " ")
	switch err := json.Unmarshal([]byte(body), &got); {
	case err != nil:
		return fmt.Sprintf("torn reads: %v: %s", err, body)
	case got.Torn != 0 || got.Versions != 2:
		return fmt.Sprintf("read %d times, %d torn, %d versions, want 0 and 2", got.Reads, got.Torn, got.Versions)
	}
	return ""
}

// shareFiles has the process and a sidecar write into one emptyDir.
func (r *row) shareFiles() {
	r.t.Helper()
	sidecar := r.c.Far("http://" + r.agentPod.Status.PodIP + ":7070")
	for _, way := range []struct {
		name, from, to string
		writer, reader scene.Far
	}{
		{"by the process", "/shared", "/other/place", r.local, sidecar},
		{"by the sidecar", "/other/place", "/shared", sidecar, r.local},
	} {
		for i, op := range [][3]string{
			{"write", "/file", "one"}, {"append", "/file", " two"}, {"rename", "/file", way.from + "/moved"}, {"write", "/moved", "three"}, {"remove", "/moved", ""},
		} {
			if o := way.writer.FileOp(op[0], way.from+op[1], op[2]); !o.OK {
				r.t.Fatalf("%s: %v: %+v", way.name, op, o)
			}
			name := []string{"/file", "/file", "/moved", "/moved", "/moved"}[i]
			want := []string{"-rw-r--r-- 3", "-rw-r--r-- 7", "-rw-r--r-- 7", "-rw-r--r-- 5", ""}[i]
			// Without waiting, but for the second that file systems of the net may remember a file.
			r.w.Eventually(fmt.Sprintf("%v %s to be seen", op, way.name), func() string {
				if o := way.reader.FileOp("stat", way.to+name, ""); o.Body != want || want == "" && o.Errno != "ENOENT" {
					return fmt.Sprintf("%+v, want %q", o, want)
				}
				return ""
			})
		}
	}
}

// TestFidelityIdentity compares the ServiceAccount's files, and asks the API server by them.
func TestFidelityIdentity(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		const dir = "/var/run/secrets/kubernetes.io/serviceaccount"
		r := newRow(t, w, part{
			objects: `
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: app}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: app}
subjects: [{kind: ServiceAccount, name: app}]
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: app}
`,
			containers: `
- name: sidecar
  image: PROBE
  imagePullPolicy: IfNotPresent
  args: [-listen, ":7070", -name, sidecar]
  securityContext: RESTRICTED`,
		})
		api := "/api/v1/namespaces/" + w.Namespace
		r.compare([]question{
			ask("file", "path", dir+"/namespace"),
			ask("file", "path", dir+"/ca.crt"),
			ask("incluster", "path", api+"/configmaps/kube-root-ca.crt"),
			ask("incluster", "path", api+"/secrets"), // forbidden, and the message says to whom
			ask("incluster", "path", "/version"),
		})
		if got := r.local.Ask("incluster", "path", api+"/secrets"); !strings.Contains(got, "system:serviceaccount:"+w.Namespace+":app") {
			t.Errorf("the refusal is %s, want one that names the pod's ServiceAccount", got)
		}
		// The token is the very pod's, which the sidecar has from the same volume.
		sidecar := r.c.Far("http://" + r.agentPod.Status.PodIP + ":7070")
		if mine, theirs := r.local.File(dir+"/token"), sidecar.File(dir+"/token"); mine == "" || mine != theirs {
			t.Errorf("the process's token and its sidecar's differ (%d and %d bytes)", len(mine), len(theirs))
		}
		r.end()
	})
}

// onLaptop runs a command on the laptop, outside any sandbox, and returns its output.
func (r *row) onLaptop(argv ...string) string {
	r.t.Helper()
	run := r.w.Start(scene.How{}, argv...)
	run.Wait()
	return run.Stdout()
}

// nodeFolder is a folder of the node, and of this machine, that everybody may write to. It needs the
// embedded cluster, whose node is this machine.
func nodeFolder(t *testing.T, w *scene.World, name string) string {
	t.Helper()
	if os.Getenv(scene.KubeconfigVariable) != "" {
		t.Skip("needs a folder of the node: run on the embedded cluster")
	}
	dir := filepath.Join(w.Lab.Dir, w.Namespace+"-"+name)
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}
