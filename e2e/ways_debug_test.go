package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/teleswap/teleswap/e2e/scene"
)

// The servers to be debugged. Each answers in line 5, where the breakpoint is to be.
const (
	pythonServer = `from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"name": "python"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

HTTPServer(("", 8080), Handler).serve_forever()
`
	nodeServer = `const http = require("http")

http
  .createServer((_, res) => {
    res.end('{"name": "node"}')
  })
  .listen(8080)
`
	breakLine = 5
)

// debugPatience bounds what a debugger may take for an answer on a busy machine.
const debugPatience = time.Minute

// debugging is a client of a debugger.
type debugging interface {
	// breakAt sets a breakpoint, and lets the program run.
	breakAt(file string, line int)
	// stopped returns when the program has stopped at the breakpoint.
	stopped()
	// resume lets it run on, without the breakpoint.
	resume(file string)
}

// TestWaysDebugOthers stops a Python and a Node.js program at a breakpoint, by the protocols that editors speak, through the published
// port, while a request is under way: the request completes.
func TestWaysDebugOthers(t *testing.T) {
	w := newWorld(t)
	w.Apply(webScene)
	c := w.NewClient()
	w.WaitAvailable()
	w.Freeze()
	for _, tc := range []struct {
		name, program, missing string
		try                    []string
		file, source, port     string
		attach                 func(*testing.T, net.Conn) debugging
	}{
		{"python", "/usr/bin/python3", "python3-debugpy", []string{"-c", "import debugpy"}, "server.py", pythonServer, "5678", attachPython},
		{"node", "/usr/bin/node", "nodejs", []string{"--version"}, "server.js", nodeServer, "9229", attachNode},
	} {
		func() {
			if err := exec.CommandContext(t.Context(), tc.program, tc.try...).Run(); err != nil {
				t.Logf("SKIPPED for %s: needs Debian's package %s (%s: %v)", tc.name, tc.missing, tc.program, err)
				return
			}
			file := w.File(tc.file, tc.source)
			run := w.Teleswap("swap", "web", "--debug", "--", tc.program, file)
			run.WaitSwapped()
			run.WaitStderr(`launch\.json.*"type":"(debugpy|node)"`)
			answer := func() scene.Outcome { return c.Get("http://web/") }
			w.Eventually("an answer of the program", func() string {
				if o := answer(); !strings.Contains(o.Body, tc.name) {
					return fmt.Sprintf("%+v", o)
				}
				return ""
			})
			conn, err := w.Lab.Laptop.Dial("127.0.0.1:" + tc.port)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			if err := conn.SetDeadline(time.Now().Add(debugPatience)); err != nil {
				t.Fatal(err)
			}
			d := tc.attach(t, conn)
			d.breakAt(file, breakLine)
			got := make(chan scene.Outcome, 1)
			go func() { // ends with an answer of the program; the originals may still be in the node's rules, and answer or have ended
				defer close(got)
				for {
					if o := answer(); strings.Contains(o.Body, tc.name) {
						got <- o
						return
					}
				}
			}()
			d.stopped()
			select {
			case o := <-got:
				t.Errorf("the request was answered at the breakpoint: %+v", o)
			default:
			}
			d.resume(file)
			if o := <-got; o.Status != 200 || !strings.Contains(o.Body, tc.name) {
				t.Errorf("the request after the breakpoint: %+v", o)
			}
			_ = conn.Close()
			run.SignalGroup(sigint)
			run.Wait()
			w.WaitUnchanged()
		}()
	}
}

// dap speaks the Debug Adapter Protocol (https://microsoft.github.io/debug-adapter-protocol/specification).
type dap struct {
	t      *testing.T
	conn   net.Conn
	r      *textproto.Reader
	seq    int
	thread int
	heard  []string // all, for a test that fails
}

// dapMessage has the fields of all kinds of messages.
type dapMessage struct {
	Seq       int            `json:"seq"`
	Type      string         `json:"type"`
	Command   string         `json:"command,omitempty"`
	Event     string         `json:"event,omitempty"`
	Arguments any            `json:"arguments,omitempty"`
	Success   bool           `json:"success,omitempty"`
	Message   string         `json:"message,omitempty"`
	Body      map[string]any `json:"body,omitempty"`
}

func attachPython(t *testing.T, conn net.Conn) debugging {
	d := &dap{t: t, conn: conn, r: textproto.NewReader(bufio.NewReader(conn))}
	d.ask("initialize", map[string]any{"adapterID": "debugpy", "linesStartAt1": true, "columnsStartAt1": true, "pathFormat": "path"})
	d.await("response", "initialize")
	d.ask("attach", map[string]any{"justMyCode": true})
	d.await("event", "initialized")
	return d
}

func (d *dap) ask(command string, arguments any) {
	d.t.Helper()
	d.seq++
	text, err := json.Marshal(dapMessage{Seq: d.seq, Type: "request", Command: command, Arguments: arguments})
	if err == nil {
		_, err = fmt.Fprintf(d.conn, "Content-Length: %d\r\n\r\n%s", len(text), text)
	}
	if err != nil {
		d.t.Fatalf("ask the debugger to %s: %v", command, err)
	}
}

// await reads until a response to a command, or an event, has come.
func (d *dap) await(kind, name string) dapMessage {
	d.t.Helper()
	for {
		var m dapMessage
		header, err := d.r.ReadMIMEHeader()
		if err == nil {
			var n int
			if n, err = strconv.Atoi(header.Get("Content-Length")); err == nil {
				text := make([]byte, n)
				if _, err = io.ReadFull(d.r.R, text); err == nil {
					d.heard = append(d.heard, string(text))
					err = json.Unmarshal(text, &m)
				}
			}
		}
		if err != nil {
			d.t.Fatalf("await the debugger's %s %s: %v; it has said:\n%s", kind, name, err, strings.Join(d.heard, "\n"))
		}
		if m.Type == "response" && !m.Success {
			d.t.Fatalf("the debugger does not %s: %s", m.Command, m.Message)
		}
		if m.Type == kind && m.Command+m.Event == name {
			return m
		}
	}
}

func (d *dap) setBreakpoints(file string, lines ...int) {
	d.t.Helper()
	all := []map[string]int{}
	for _, line := range lines {
		all = append(all, map[string]int{"line": line})
	}
	d.ask("setBreakpoints", map[string]any{"source": map[string]string{"path": file}, "breakpoints": all})
	d.await("response", "setBreakpoints")
}

func (d *dap) breakAt(file string, line int) {
	d.t.Helper()
	d.setBreakpoints(file, line)
	d.ask("configurationDone", nil)
	d.await("response", "configurationDone")
}

func (d *dap) stopped() {
	d.t.Helper()
	m := d.await("event", "stopped")
	thread, _ := m.Body["threadId"].(float64)
	if d.thread = int(thread); m.Body["reason"] != "breakpoint" {
		d.t.Errorf("stopped because of %v", m.Body)
	}
}

func (d *dap) resume(file string) {
	d.t.Helper()
	d.setBreakpoints(file)
	d.ask("continue", map[string]int{"threadId": d.thread})
	d.await("response", "continue")
}

// inspector speaks with Node.js's (https://nodejs.org/api/debugger.html; https://chromedevtools.github.io/devtools-protocol/v8/Debugger/).
type inspector struct {
	t    *testing.T
	conn *websocket.Conn
	id   int
}

type inspectorMessage struct {
	ID     int    `json:"id,omitempty"`
	Method string `json:"method,omitempty"`
	Params any    `json:"params,omitempty"`
	Error  any    `json:"error,omitempty"`
}

// attachNode finds out the session's path, as editors do, and opens it.
func attachNode(t *testing.T, conn net.Conn) debugging {
	t.Helper()
	address := conn.RemoteAddr().String()
	var sessions []struct {
		URL string `json:"webSocketDebuggerUrl"`
	}
	if _, err := fmt.Fprintf(conn, "GET /json/list HTTP/1.1\r\nHost: %s\r\n\r\n", address); err != nil {
		t.Fatal(err)
	}
	r := textproto.NewReader(bufio.NewReader(conn))
	status, err := r.ReadLine()
	if err != nil || !strings.Contains(status, " 200 ") {
		t.Fatalf("the inspector answers %q, %v", status, err)
	}
	if _, err := r.ReadMIMEHeader(); err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(r.R).Decode(&sessions); err != nil || len(sessions) != 1 {
		t.Fatalf("the inspector has %d sessions, %v", len(sessions), err)
	}
	if want := "ws://" + address + "/"; !strings.HasPrefix(sessions[0].URL, want) {
		t.Errorf("the inspector's session is at %s, want %s…", sessions[0].URL, want)
	}
	dialer := websocket.Dialer{NetDialContext: func(_ context.Context, _, to string) (net.Conn, error) {
		return stage.lab.Laptop.Dial(to)
	}}
	ws, resp, err := dialer.DialContext(t.Context(), sessions[0].URL, nil)
	if err != nil {
		t.Fatalf("open the inspector's session: %v", err)
	}
	_ = resp.Body.Close()
	t.Cleanup(func() { _ = ws.Close() })
	if err := ws.SetReadDeadline(time.Now().Add(debugPatience)); err != nil {
		t.Fatal(err)
	}
	n := &inspector{t: t, conn: ws}
	n.ask("Debugger.enable", nil)
	return n
}

// ask returns when the answer has come.
func (n *inspector) ask(method string, params any) {
	n.t.Helper()
	n.id++
	if err := n.conn.WriteJSON(inspectorMessage{ID: n.id, Method: method, Params: params}); err != nil {
		n.t.Fatalf("%s: %v", method, err)
	}
	if m := n.await(method, func(m inspectorMessage) bool { return m.ID == n.id }); m.Error != nil {
		n.t.Fatalf("%s: %v", method, m.Error)
	}
}

func (n *inspector) await(what string, is func(inspectorMessage) bool) inspectorMessage {
	n.t.Helper()
	for {
		var m inspectorMessage
		if err := n.conn.ReadJSON(&m); err != nil {
			n.t.Fatalf("await %s: %v", what, err)
		}
		if is(m) {
			return m
		}
	}
}

func (n *inspector) breakAt(file string, line int) {
	n.t.Helper()
	n.ask("Debugger.setBreakpointByUrl", map[string]any{"lineNumber": line - 1, "url": "file://" + file})
}

func (n *inspector) stopped() {
	n.t.Helper()
	m := n.await("a stop", func(m inspectorMessage) bool { return m.Method == "Debugger.paused" })
	params, _ := m.Params.(map[string]any)
	if hit, _ := params["hitBreakpoints"].([]any); len(hit) != 1 {
		n.t.Errorf("stopped by %v", params["reason"])
	}
}

func (n *inspector) resume(string) {
	n.t.Helper()
	n.ask("Debugger.setBreakpointsActive", map[string]bool{"active": false})
	n.ask("Debugger.resume", nil)
}
