package scene

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// clientYAML is a pod that plays the target's callers. It is asked through the API
// server, which reaches it whatever happens to the Services.
const clientYAML = `
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec:
  terminationGracePeriodSeconds: 1
  automountServiceAccountToken: false
  containers:
  - name: probe
    image: PROBE
    imagePullPolicy: IfNotPresent
    args: [-listen, ":8099"]
    securityContext: {allowPrivilegeEscalation: false, runAsNonRoot: true, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}
    readinessProbe: {httpGet: {path: /self, port: 8099}, periodSeconds: 1}
`

// Client is a pod inside the cluster that calls others.
type Client struct {
	w   *World
	IP  string
	IP6 string // "" in a cluster without IPv6
}

// NewClient makes it and waits until it can be used. Call it before Freeze.
func (w *World) NewClient() *Client {
	w.T.Helper()
	w.Apply(clientYAML)
	c := &Client{w: w}
	w.Eventually("the client pod to be Ready", func() string {
		pods := w.Pods("app=client")
		if len(pods) == 1 && Ready(pods[0]) {
			c.IP, c.IP6 = pods[0].Status.PodIP, IPv6(pods[0])
			return ""
		}
		return "not Ready"
	})
	return c
}

// Outcome is what the probe says of a dial, a lookup or a request.
type Outcome struct {
	OK           bool
	Errno        string
	NotFound     bool
	Error        string
	Milliseconds float64
	Addresses    []string
	Status       int
	Body         string
}

// Self is what a probe knows of itself.
type Self struct {
	Name      string
	PID       int
	Hostname  string
	Dir       string
	Args      []string
	Peer      string
	Local     string
	Listening string
	Status    map[string]string
	Addresses []string
}

// ask has the client pod do something, and decodes its answer.
func (c *Client) ask(into any, path string, query url.Values) error {
	req := c.w.Lab.Kube.CoreV1().RESTClient().Get().Namespace(c.w.Namespace).Resource("pods").Name("client:8099").SubResource("proxy").Suffix(path)
	for k, vs := range query {
		for _, v := range vs {
			req = req.Param(k, v)
		}
	}
	raw, err := req.Timeout(patience).DoRaw(c.w.T.Context())
	if err != nil {
		return fmt.Errorf("ask the client pod for %s: %w: %.300s", path, err, raw)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("decode the client pod's answer %.300q: %w", raw, err)
	}
	return nil
}

// Get has the client pod send a request, and tells how it went.
func (c *Client) Get(address string) Outcome {
	c.w.T.Helper()
	var o Outcome
	c.w.must(c.ask(&o, "get", url.Values{"url": {address}}), "get %s", address)
	return o
}

// Post sends a body.
func (c *Client) Post(address, body string) Outcome {
	c.w.T.Helper()
	var o Outcome
	c.w.must(c.ask(&o, "post", url.Values{"url": {address}, "body": {body}}), "post %s", address)
	return o
}

// Body is Get for a request that must succeed.
func (c *Client) Body(address string) string {
	c.w.T.Helper()
	o := c.Get(address)
	if !o.OK || o.Status != 200 {
		c.w.T.Fatalf("get %s from the client pod: %+v", address, o)
	}
	return o.Body
}

// manyAnswers are so many that none of them is of one of two servers, each of which is as likely, once in 10¹².
const manyAnswers = "40"

// Do has the client pod do anything that the probe can.
func (c *Client) Do(path string, query url.Values) Outcome {
	c.w.T.Helper()
	var o Outcome
	c.w.must(c.ask(&o, path, query), "%s %s", path, query)
	return o
}

// Far speaks, by way of the client pod and the target's Service, with the probe that
// runs on the laptop.
type Far struct {
	c    *Client
	base string
}

// Far is the probe behind a URL such as http://service-a.
func (c *Client) Far(base string) Far { return Far{c, base} }

func (f Far) into(v any, path string, query url.Values) {
	f.c.w.T.Helper()
	body := f.c.Body(f.base + path + "?" + query.Encode())
	f.c.w.must(json.Unmarshal([]byte(body), v), "decode %s of %s: %.300q", path, f.base, body)
}

// Self is who answers.
func (f Far) Self() Self {
	f.c.w.T.Helper()
	var s Self
	f.into(&s, "/self", nil)
	return s
}

// WaitLocal waits until the process of that name answers, and nobody else any more: the node's rules follow the endpoints with a
// small delay, and the original serves until then. That nobody else does can only be seen from many answers.
func (f Far) WaitLocal(name string) Self {
	f.c.w.T.Helper()
	var s Self
	who := fmt.Sprintf(`"name":%q`, name)
	f.c.w.Eventually("answers of "+name+" at "+f.base, func() string {
		var o Outcome
		if err := f.c.ask(&o, "get", url.Values{"url": {f.base + "/self"}, "times": {manyAnswers}, "want": {who}}); err != nil {
			return err.Error()
		}
		if !o.OK || json.Unmarshal([]byte(o.Body), &s) != nil || s.Name != name {
			return fmt.Sprintf("%.300s %s", o.Body, o.Error)
		}
		return ""
	})
	return s
}

// Env is the process's environment.
func (f Far) Env() []string {
	f.c.w.T.Helper()
	var env []string
	f.into(&env, "/env", nil)
	return env
}

// File is a file's content as the process sees it.
func (f Far) File(path string) string {
	f.c.w.T.Helper()
	return f.c.Body(f.base + "/file?path=" + url.QueryEscape(path))
}

// Do has the process dial, look up, get or shake hands.
func (f Far) Do(path string, pairs ...string) Outcome {
	f.c.w.T.Helper()
	query := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		query.Set(pairs[i], pairs[i+1])
	}
	var o Outcome
	f.into(&o, "/"+path, query)
	return o
}

// Exit ends the process with a status, after it has answered.
func (f Far) Exit(code int) {
	f.c.w.T.Helper()
	f.c.Body(fmt.Sprintf("%s/exit?code=%d", f.base, code))
}

// Load is a stream of requests from the client pod.
type Load struct {
	c *Client
}

// LoadReport is what became of them.
type LoadReport struct {
	Sent, Original, Swapped, New, Kept, Failed int
	Failures                                   []string
	SlowestMilliseconds                        int
}

// WaitService waits until the URL answers, ten times in a row. A Service whose pods have just
// become Ready refuses until the node's rules have followed.
func (c *Client) WaitService(address string) {
	c.w.T.Helper()
	c.w.Eventually(address+" to answer", func() string {
		for range 10 {
			if o := c.Post(address, `{"message":"Hi"}`); o.Status != 200 {
				return fmt.Sprintf("%+v", o)
			}
		}
		return ""
	})
}

// StartLoad sends 50 requests a second to the URL until Stop. Half of them go out on
// connections of their own, half on kept-alive ones.
func (c *Client) StartLoad(address string) *Load {
	c.w.T.Helper()
	c.WaitService(address)
	var r LoadReport
	c.w.must(c.ask(&r, "load/start", url.Values{"url": {address}, "rate": {"50"}}), "start the load")
	return &Load{c}
}

// Now is the report so far.
func (l *Load) Now() LoadReport {
	l.c.w.T.Helper()
	var r LoadReport
	l.c.w.must(l.c.ask(&r, "load/report", nil), "ask for the load's report")
	return r
}

// Stop ends it, waits for the answers that are due and returns the whole.
func (l *Load) Stop() LoadReport {
	l.c.w.T.Helper()
	var r LoadReport
	l.c.w.must(l.c.ask(&r, "load/stop", nil), "stop the load")
	return r
}

// WaitOriginal waits until n more requests were answered by the original.
func (l *Load) WaitOriginal(n int) {
	l.c.w.T.Helper()
	want := l.Now().Original + n
	l.c.w.Eventually("answers of the original", func() string {
		if r := l.Now(); r.Original < want {
			return fmt.Sprintf("%+v", r)
		}
		return ""
	})
}

// WaitSwapped waits until n more requests were answered by the local process.
func (l *Load) WaitSwapped(n int) {
	l.c.w.T.Helper()
	want := l.Now().Swapped + n
	l.c.w.Eventually("answers of the local process", func() string {
		if r := l.Now(); r.Swapped < want {
			return fmt.Sprintf("%+v", r)
		}
		return ""
	})
}

// NoneFailed fails the test if any request did, or if the load proves nothing: both sides must
// have answered, on both kinds of connection.
func (r LoadReport) NoneFailed(t testing.TB) {
	t.Helper()
	t.Logf("load: %d requests, %d answered by the original, %d by the local process; %d on new connections, %d on kept ones; slowest %s",
		r.Sent, r.Original, r.Swapped, r.New, r.Kept, time.Duration(r.SlowestMilliseconds)*time.Millisecond)
	if r.Failed != 0 {
		t.Errorf("%d of %d requests failed:", r.Failed, r.Sent)
		for _, f := range r.Failures {
			t.Errorf("  %s", f)
		}
	}
	if r.Original == 0 || r.Swapped == 0 || r.New == 0 || r.Kept == 0 {
		t.Errorf("the load proves nothing: %+v", r)
	}
}

// IPv6 is the pod's address of that family; "" if it has none.
func IPv6(p corev1.Pod) string {
	for _, ip := range p.Status.PodIPs {
		if strings.Contains(ip.IP, ":") {
			return ip.IP
		}
	}
	return ""
}

// PodIP is the address of the one pod that a selector finds.
func (w *World) PodIP(selector string) string {
	w.T.Helper()
	var ip string
	w.Eventually("one Ready pod of "+selector, func() string {
		pods := w.Pods(selector)
		ready := func(p corev1.Pod) bool { return Ready(p) && p.Status.PodIP != "" }
		if len(pods) != 1 || !ready(pods[0]) {
			return fmt.Sprintf("%d pods", len(pods))
		}
		ip = pods[0].Status.PodIP
		return ""
	})
	return ip
}

// Ask is the whole answer to a question of the probe, as text.
func (f Far) Ask(path string, pairs ...string) string {
	f.c.w.T.Helper()
	query := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		query.Set(pairs[i], pairs[i+1])
	}
	o := f.c.Get(f.base + "/" + path + "?" + query.Encode())
	if !o.OK {
		f.c.w.T.Fatalf("ask %s for %s?%s: %+v", f.base, path, query.Encode(), o)
	}
	return fmt.Sprintf("%d %s", o.Status, o.Body)
}

// FileOp has the process do one thing with a file.
func (f Far) FileOp(op, path, text string) Outcome {
	f.c.w.T.Helper()
	return f.Do("fileop", "op", op, "path", path, "text", text)
}
