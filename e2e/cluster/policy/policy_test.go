//go:build linux

package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}

func TestSelector(t *testing.T) {
	labels := map[string]string{"app": "web", "tier": "front"}
	for _, tt := range []struct {
		name, selector string
		want           bool
	}{
		{"empty takes all", `{}`, true},
		{"label", `{"matchLabels":{"app":"web"}}`, true},
		{"other value", `{"matchLabels":{"app":"db"}}`, false},
		{"one of two is not enough", `{"matchLabels":{"app":"web","x":"y"}}`, false},
		{"in", `{"matchExpressions":[{"key":"app","operator":"In","values":["db","web"]}]}`, true},
		{"in without the label", `{"matchExpressions":[{"key":"x","operator":"In","values":[""]}]}`, false},
		{"not in", `{"matchExpressions":[{"key":"app","operator":"NotIn","values":["web"]}]}`, false},
		{"not in without the label", `{"matchExpressions":[{"key":"x","operator":"NotIn","values":["web"]}]}`, true},
		{"exists", `{"matchExpressions":[{"key":"tier","operator":"Exists"}]}`, true},
		{"does not exist", `{"matchExpressions":[{"key":"tier","operator":"DoesNotExist"}]}`, false},
		{"unknown operator", `{"matchExpressions":[{"key":"tier","operator":"Like"}]}`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := decode[selector](t, tt.selector).matches(labels); got != tt.want {
				t.Errorf("got %t, want %t", got, tt.want)
			}
		})
	}
}

// town is a state with a few pods in two namespaces.
func town(t *testing.T, policies ...string) state {
	t.Helper()
	s := state{namespaces: map[string]namespace{}, pods: map[string]pod{}, policies: map[string]networkPolicy{}}
	for _, n := range []string{`{"metadata":{"name":"a","labels":{"name":"a"}}}`, `{"metadata":{"name":"dns","labels":{"name":"dns"}}}`} {
		o := decode[namespace](t, n)
		s.namespaces[o.key()] = o
	}
	add := func(space, name, app, more string, addrs ...string) {
		ips := ""
		for _, a := range addrs {
			ips = strings.TrimPrefix(fmt.Sprintf(`%s,{"ip":%q}`, ips, a), ",")
		}
		o := decode[pod](t, fmt.Sprintf(`{"metadata":{"namespace":%q,"name":%q,"labels":{"app":%q}},"spec":{%s},"status":{"phase":"Running","podIPs":[%s]}}`,
			space, name, app, more, ips))
		s.pods[o.key()] = o
	}
	add("a", "client", "client", "", "10.0.0.1", "fd00::1")
	add("a", "web", "web", `"containers":[{"ports":[{"name":"http","containerPort":8080}]}]`, "10.0.0.2", "fd00::2")
	add("a", "db", "db", `"initContainers":[{"ports":[{"name":"sql","containerPort":5432,"protocol":"TCP"}]}]`, "10.0.0.3")
	add("a", "host", "web", `"hostNetwork":true`, "10.1.1.1")
	add("a", "new", "web", "")
	add("dns", "dns", "dns", "", "10.0.0.9")
	gone := decode[pod](t, `{"metadata":{"namespace":"a","name":"gone","labels":{"app":"client"}},"status":{"phase":"Succeeded","podIPs":[{"ip":"10.0.0.2"}]}}`)
	s.pods[gone.key()] = gone
	for i, text := range policies {
		p := decode[networkPolicy](t, fmt.Sprintf(`{"metadata":{"namespace":"a","name":"p%d"},"spec":%s}`, i, text))
		s.policies[p.key()] = p
	}
	return s
}

func TestRuleset(t *testing.T) {
	const web = `"podSelector":{"matchLabels":{"app":"web"}}`
	for _, tt := range []struct {
		name     string
		policies []string
		chains   map[string]string // what lets pass, after the pod itself
	}{
		{name: "none"},
		{
			name:     "deny everything to everybody",
			policies: []string{`{"podSelector":{},"policyTypes":["Ingress","Egress"]}`},
			chains: map[string]string{
				"ingress_10_0_0_1": "", "ingress_10_0_0_2": "", "ingress_10_0_0_3": "",
				"egress_10_0_0_1": "", "egress_10_0_0_2": "", "egress_10_0_0_3": "",
			},
		},
		{
			name:     "without types: ingress",
			policies: []string{`{` + web + `}`},
			chains:   map[string]string{"ingress_10_0_0_2": ""},
		},
		{
			name:     "without types: egress where there are rules",
			policies: []string{`{` + web + `,"egress":[{}]}`},
			chains:   map[string]string{"ingress_10_0_0_2": "", "egress_10_0_0_2": "(all)"},
		},
		{
			name:     "a label and the isolated pod's named port",
			policies: []string{`{` + web + `,"ingress":[{"from":[{"podSelector":{"matchLabels":{"app":"client"}}}],"ports":[{"port":"http"}]}]}`},
			chains:   map[string]string{"ingress_10_0_0_2": "ip saddr 10.0.0.1 tcp dport 8080; ip6 saddr fd00::1 tcp dport 8080"},
		},
		{
			name:     "the called pod's named port",
			policies: []string{`{` + web + `,"policyTypes":["Egress"],"egress":[{"to":[{"podSelector":{"matchLabels":{"app":"db"}}}],"ports":[{"port":"sql","protocol":"TCP"}]}]}`},
			chains:   map[string]string{"egress_10_0_0_2": "ip daddr 10.0.0.3 tcp dport 5432"},
		},
		{
			name:     "a name that no port has",
			policies: []string{`{` + web + `,"ingress":[{"ports":[{"port":"grpc"}]}]}`},
			chains:   map[string]string{"ingress_10_0_0_2": ""},
		},
		{
			name:     "another namespace, two protocols, a range",
			policies: []string{`{` + web + `,"policyTypes":["Egress"],"egress":[{"to":[{"namespaceSelector":{"matchLabels":{"name":"dns"}},"podSelector":{"matchLabels":{"app":"dns"}}}],"ports":[{"port":53,"protocol":"UDP"},{"port":53,"endPort":60},{"protocol":"UDP"}]}]}`},
			chains:   map[string]string{"egress_10_0_0_2": "ip daddr 10.0.0.9 udp dport 53; ip daddr 10.0.0.9 tcp dport 53-60; ip daddr 10.0.0.9 meta l4proto udp"},
		},
		{
			name:     "a peer that is nobody",
			policies: []string{`{` + web + `,"ingress":[{"from":[{"podSelector":{"matchLabels":{"app":"nobody"}}}]}]}`},
			chains:   map[string]string{"ingress_10_0_0_2": ""},
		},
		{
			name:     "addresses",
			policies: []string{`{` + web + `,"ingress":[{"from":[{"ipBlock":{"cidr":"10.0.0.0/8","except":["10.2.0.0/16","10.3.0.0/16"]}}]}]}`},
			chains:   map[string]string{"ingress_10_0_0_2": "ip saddr 10.0.0.0/8 ip saddr != { 10.2.0.0/16, 10.3.0.0/16 }"},
		},
		{
			name:     "addresses of the other family",
			policies: []string{`{` + web + `,"policyTypes":["Egress"],"egress":[{"to":[{"ipBlock":{"cidr":"fd00:1::/32","except":["fd00:1:2::/48"]}}]}]}`},
			chains:   map[string]string{"egress_10_0_0_2": "ip6 daddr fd00:1::/32 ip6 daddr != { fd00:1:2::/48 }"},
		},
		{
			name:     "policies add up",
			policies: []string{`{"podSelector":{"matchLabels":{"app":"web"}},"ingress":[{"ports":[{"port":1}]}]}`, `{` + web + `,"ingress":[{"ports":[{"port":2}]}]}`},
			chains:   map[string]string{"ingress_10_0_0_2": "tcp dport 1; tcp dport 2"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := town(t, tt.policies...).ruleset()
			if again := town(t, tt.policies...).ruleset(); again != text {
				t.Errorf("the same state gave another text:\n%s\n%s", text, again)
			}
			got := passages(text)
			if fmt.Sprint(got) != fmt.Sprint(tt.chains) {
				t.Errorf("got %v, want %v; the text:\n%s", got, tt.chains, text)
			}
			for chain := range got {
				direction, _, _ := strings.Cut(chain, "_")
				ip := strings.ReplaceAll(strings.TrimPrefix(chain, direction+"_"), "_", ".")
				address := map[string]string{"ingress": "ip daddr", "egress": "ip saddr"}[direction]
				if !strings.Contains(text, address+" vmap {") || !strings.Contains(text, ip+" : jump "+chain) {
					t.Errorf("nothing leads to %s:\n%s", chain, text)
				}
				if six := "fd00::2 : jump " + chain; ip == "10.0.0.2" && (!strings.Contains(text, strings.Replace(address, "ip", "ip6", 1)+" vmap {") || !strings.Contains(text, six)) {
					t.Errorf("no %q in\n%s", six, text)
				}
			}
			check(t, text)
		})
	}
}

// passages are the matches of each pod's chain that let a packet pass, without the pod's to itself.
func passages(text string) map[string]string {
	var found map[string]string
	for _, part := range strings.Split(text, "\tchain ")[1:] {
		name, body, _ := strings.Cut(part, " {")
		if name == "forward" {
			continue
		}
		var lines []string
		for _, line := range strings.Split(body, "\n") {
			if strings.Contains(line, "saddr") && strings.Contains(line, "daddr") {
				continue
			}
			if match, ok := strings.CutSuffix(strings.TrimSpace(line), "return"); ok {
				if match = strings.TrimSpace(match); match == "" {
					match = "(all)"
				}
				lines = append(lines, match)
			}
		}
		if found == nil {
			found = map[string]string{}
		}
		found[name] = strings.Join(lines, "; ")
	}
	return found
}

// check has nft read the script, which changes nothing; that takes root.
func check(t *testing.T, script string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	cmd := exec.CommandContext(t.Context(), "nft", "--check", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("nft does not take it: %v: %s\n%s", err, out, script)
	}
}

// TestEnforcer follows an API server that lists, sends events, breaks a watch off and says that one is too old.
func TestEnforcer(t *testing.T) {
	events := make(chan string)
	const policies = "/apis/networking.k8s.io/v1/networkpolicies"
	listed := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch watching := r.FormValue("watch") != ""; {
		case watching && r.URL.Path == policies:
			_ = http.NewResponseController(w).Flush()
			for {
				select {
				case event := <-events:
					if event == "" {
						return
					}
					_, _ = io.WriteString(w, event)
					_ = http.NewResponseController(w).Flush()
				case <-r.Context().Done():
					return
				}
			}
		case watching:
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		case r.URL.Path == "/api/v1/pods":
			_, _ = io.WriteString(w, `{"items":[{"metadata":{"namespace":"a","name":"web"},"status":{"podIPs":[{"ip":"10.0.0.2"}]}}]}`)
		case r.URL.Path == policies:
			if listed++; listed == 2 {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			_, _ = io.WriteString(w, `{"items":[]}`)
		default:
			_, _ = io.WriteString(w, `{"items":[]}`)
		}
	}))
	defer server.Close()
	scripts := make(chan string, 1)
	fail := true
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	e := &Enforcer{Server: server.URL, Client: client, Logger: slog.New(slog.DiscardHandler), Apply: func(_ context.Context, script string) error {
		if fail {
			fail = false
			return errors.New("busy")
		}
		scripts <- script
		return nil
	}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	want := func(what string, denied bool) {
		t.Helper()
		select {
		case script := <-scripts:
			if got := strings.Contains(script, "chain ingress_10_0_0_2"); got != denied {
				t.Fatalf("%s: isolated %t, want %t:\n%s", what, got, denied, script)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s: no rules", what)
		}
	}
	const policy = `"object":{"metadata":{"namespace":"a","name":"deny"},"spec":{"podSelector":{}}}}`
	want("at first, after a failure", false)
	events <- `{"type":"ADDED",` + policy
	want("added", true)
	events <- `{"type":"DELETED",` + policy
	want("deleted", false)
	events <- `{"type":"ADDED",` + policy
	want("added again", true)
	events <- `{"type":"ERROR","object":{"code":410}}`
	want("listed anew, at the second try", false)
	events <- "" // the watch's own end
	events <- `{"type":"ADDED",` + policy
	want("watched anew", true)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Run ended with %v", err)
	}
}
