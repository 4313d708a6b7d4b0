package e2e

import (
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/teleswap/teleswap/e2e/scene"
)

// call is a command line of an unmodified client and what it must say.
type call struct {
	name, command string
	want          string // regular expression for the whole output
	status        int
}

// serverCalls are typed in the sandbox, one after the other. The probe serves on 127.0.0.1:9999
// there; POD in what is wanted is the pod's address.
func serverCalls() []call {
	return []call{
		{"psql asks", `psql -XAt -c 'select 40 + 2'`, `42\n`, 0},
		{"psql is seen as the pod", `test "$(psql -XAt -c 'select inet_client_addr()')" = "$POD_IP" && echo same`, `same\n`, 0},
		{
			"psql copies both ways",
			`seq 1 200000 >in && psql -Xq -c 'create table t (n int)' -c '\copy t from in' -c '\copy t to out' && cmp in out && psql -XAt -c 'select count(*) from t'`,
			`200000\n`, 0,
		},
		{"psql with a wrong password", `PGPASSWORD=wrong psql -XAt -c 'select 1'`, `(?s).*password authentication failed.*`, 2},
		{"psql at a closed port", `psql -XAt -p 5433 -c 'select 1'`, `(?s).*Connection refused.*`, 2},
		{"redis-cli sets", `redis-cli -h redis set key 'a value'`, `OK\n`, 0},
		{"redis-cli gets", `redis-cli -h redis get key`, `a value\n`, 0},
		{"redis-cli pipes", `seq 1 20000 | sed 's/.*/SET key:& &/' | redis-cli -h redis --pipe >/dev/null && redis-cli -h redis dbsize`, `20001\n`, 0},
		{"redis-cli waits in vain", `redis-cli -h redis blpop nothing 0.2`, `\n`, 0},
		{"curl by HTTP/1.1", `curl -sS --http1.1 http://web/`, `HTTP/1\.1 by nginx, asked by POD\n`, 0},
		{"curl by HTTP/2, in the clear", `curl -sS --http2-prior-knowledge http://web:81/`, `HTTP/2\.0 by nginx, asked by POD\n`, 0},
		{"curl by HTTP/2 and TLS", `curl -sS --http2 --cacert ca.crt -w '%{http_version}\n' https://web/`, `HTTP/2\.0 by nginx, asked by POD\n2\n`, 0},
		{"curl knows a wrong certificate", `curl -sS https://web/`, `(?s)curl: \(60\) .*`, 60},
		{
			"curl asks 50 things at once by HTTP/2",
			`curl -sS --http2 --cacert ca.crt --parallel --parallel-max 50 -o /dev/null -w '%{http_code}\n' "https://web/?[1-50]" 2>/dev/null | sort | uniq -c`, `\s+50 200\n`, 0,
		},
		{"curl fetches through nginx", `curl -sS http://web/bytes?n=5000011 | wc -c`, `5000011\n`, 0},
		{
			"curl upgrades to a WebSocket",
			`curl -sS -N --http1.1 -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGVsZXN3YXAgdGVzdHM9PQ==' \
				'http://web/ws?bye=1' | tr -cd '[:print:]'; echo`,
			`.*hello from the websocket.*\n`, 0,
		},
		{"a WebSocket both ways", `curl -sS 'http://127.0.0.1:9999/wscall?url=ws://web/ws&text=echo'`, `.*"body":"hello from the websocket\|echo".*\n`, 0},
		{"gRPC", `curl -sS 'http://127.0.0.1:9999/grpc?addr=backend:5200&service=backend'`, `.*"body":"SERVING SERVING".*\n`, 0},
		{"gRPC with a status", `curl -sS 'http://127.0.0.1:9999/grpc?addr=backend:5200&service=other'`, `.*code = NotFound.*\n`, 0},
		{"a server that speaks first", `curl -sS -v --max-time 20 smtp://mail:2525 2>&1 | grep -a '^< 220'`, `< 220 .*msmtpd.*\n`, 0},
		{"a mail", `printf 'Subject: x\r\n\r\nhello\r\n' | curl -sS --mail-from a@example.com --mail-rcpt b@example.com -T - smtp://mail:2525`, ``, 0},
		{"git clones", `git clone -q git://git/repo clone && cat clone/README && git -C clone log --format=%s`, `hello from git\nthe first\n`, 0},
	}
}

// TestPodViewRealServers uses PostgreSQL, Redis, nginx, git and a mail server of the cluster with the
// clients that everybody has.
func TestPodViewRealServers(t *testing.T) {
	asBoth(t, func(t *testing.T, w *scene.World) {
		secret, certificate := tlsSecret(t, "web", "web")
		w.Apply(secret)
		w.Apply(serversYAML())
		w.WaitAvailable()
		w.Freeze()
		needs(t, "psql", "redis-cli", "curl", "git")
		calls := serverCalls()
		w.File("ca.crt", certificate)
		run := w.Start(scene.How{}, w.Lab.Bin.Teleswap, "swap", "worker", "--", "/bin/sh", w.File("calls", callScript(w, calls)))
		run.WaitEnd(0)
		checkCalls(t, run.Stdout(), calls)
	})
}

// needs fails the test, with what to do, where a client is not installed.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Fatalf("%s is not installed: sudo apt-get install postgresql-client redis-tools curl git iputils-ping bind9-dnsutils", p)
		}
	}
}

const callMark = "=== call "

// callScript runs one call after the other, and tells each one's output and status.
func callScript(w *scene.World, calls []call) string {
	script := w.Lab.Bin.Probe + " -listen 127.0.0.1:9999 >/dev/null & probe=$!\n" +
		"until curl -s -o /dev/null http://127.0.0.1:9999/self; do sleep 0.05; done\n" +
		"echo \"" + callMark + "pod $POD_IP\"\n"
	for i, c := range calls {
		script += fmt.Sprintf("echo '%s%d'\n{ %s\n} 2>&1 </dev/null\necho \"%sstatus $?\"\n", callMark, i, c.command, callMark)
	}
	return script + "kill $probe\nwait $probe\nexit 0\n"
}

func checkCalls(t *testing.T, output string, calls []call) {
	t.Helper()
	_, rest, found := strings.Cut(output, callMark+"pod ")
	pod, rest, _ := strings.Cut(rest, "\n")
	if !found || pod == "" {
		t.Fatalf("the script did not tell the pod's address: %s", output)
	}
	for i, c := range calls {
		_, after, found := strings.Cut(rest, fmt.Sprintf("%s%d\n", callMark, i))
		text, status, ended := strings.Cut(after, callMark+"status ")
		status, _, _ = strings.Cut(status, "\n")
		if !found || !ended {
			t.Errorf("%s: did not end: %.300s", c.name, after)
			continue
		}
		want := regexp.MustCompile(`^` + strings.ReplaceAll(c.want, "POD", regexp.QuoteMeta(pod)) + `$`)
		if status != fmt.Sprint(c.status) || !want.MatchString(text) {
			t.Errorf("%s: status %s, want %d; output %.500q, want %s", c.name, status, c.status, text, want)
		}
	}
}
