// Package doctor finds out whether Teleswap works on this machine and with this cluster, and says for each thing that does not
// why, and what to do. It changes nothing, neither here nor there: what would have to (a round trip) is the caller's to do and to
// add. It needs no daemon, and no cluster to begin with.
package doctor

import (
	"context"
	"strings"
	"time"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/kube"
)

// State is what a check has found.
type State string

// The states. Note is for what could not be checked, or works with something left to know.
const (
	OK   State = "ok"
	Not  State = "not"
	Note State = "note"
)

// Finding is what one check has found.
type Finding struct {
	Check string `json:"check"`
	State State  `json:"state"`
	// Says is what was found; where State is Not, why.
	Says string `json:"says"`
	// Do is what to do about it; empty: nothing.
	Do string `json:"do,omitempty"`
}

// Report is what all checks have found.
type Report struct {
	OK       bool      `json:"ok"`
	Findings []Finding `json:"findings"`
}

// Add adds a finding.
func (r *Report) Add(f Finding) {
	r.Findings = append(r.Findings, f)
	r.OK = r.OK && f.State != Not
}

// Config is what the checks need to know.
type Config struct {
	// Connection leads to the cluster.
	Connection kube.Connection
	// Version and Build are of this program; Image is the agent's that it would use.
	Version, Build, Image string
	Paths                 api.Paths
	StateDir              string
	// User and Host are as they stand in marks.
	User, Host string
	// HostDir is where root's part keeps its record of what it has changed on this machine; empty: there is no such place.
	HostDir string
	// ResolvConf is the laptop's resolv.conf(5); empty: this system has none that counts.
	ResolvConf string
}

const (
	// answerPatience is what the API server may take for all that it is asked by one check.
	answerPatience = 10 * time.Second
	// namesPatience is what a nameserver may take.
	namesPatience = 2 * time.Second
)

// Examination is one run of the checks.
type Examination struct {
	cfg     Config
	tell    func(Finding)
	report  Report
	cluster *kube.Cluster // nil: there is none
	answers bool          // the API server does
	boxes   bool          // this machine makes sandboxes
	serves  bool          // a daemon does
	// sessions are the ids of those that live in the daemon.
	sessions map[string]bool
}

// Run runs all checks; tell gets each finding when it is made, and may be nil. The caller closes the examination.
func Run(ctx context.Context, cfg Config, tell func(Finding)) *Examination {
	if tell == nil {
		tell = func(Finding) {}
	}
	e := &Examination{cfg: cfg, tell: tell, report: Report{OK: true, Findings: []Finding{}}, sessions: map[string]bool{}}
	e.checkKubeconfig()
	e.checkServer(ctx)
	e.checkPermissions(ctx)
	e.checkKernel()
	e.checkResolver(ctx)
	e.checkRoutes(ctx)
	e.checkImage()
	e.checkDaemon(ctx)
	e.checkLeftovers(ctx)
	return e
}

// Report is what was found.
func (e *Examination) Report() Report { return e.report }

// Reachable says whether there is a cluster that answers.
func (e *Examination) Reachable() bool { return e.answers }

// Sandbox says whether this machine makes sandboxes.
func (e *Examination) Sandbox() bool { return e.boxes }

// Namespace is the one that the checks were about; empty without a cluster.
func (e *Examination) Namespace() string {
	if e.cluster == nil {
		return ""
	}
	return e.cluster.Namespace()
}

// Add adds what somebody else has found.
func (e *Examination) Add(f Finding) {
	e.report.Add(f)
	e.tell(f)
}

// Close lets go of the cluster.
func (e *Examination) Close() error {
	if e.cluster == nil {
		return nil
	}
	return e.cluster.Close()
}

func (e *Examination) ok(check, says string) { e.Add(Finding{Check: check, State: OK, Says: says}) }

func (e *Examination) note(check, says, do string) {
	e.Add(Finding{Check: check, State: Note, Says: says, Do: do})
}

func (e *Examination) not(check, why, do string) {
	e.Add(Finding{Check: check, State: Not, Says: why, Do: do})
}

// fail is for an error of ours, whose last line says what to do.
func (e *Examination) fail(check string, err error) { e.Add(Failed(check, err)) }

// Failed is the finding that an error is: its last line, if it has several, is what to do.
func Failed(check string, err error) Finding {
	text := strings.TrimSpace(err.Error())
	why, do := text, ""
	if i := strings.LastIndexByte(text, '\n'); i >= 0 {
		why, do = text[:i], text[i+1:]
	}
	return Finding{Check: check, State: Not, Says: oneLine(why), Do: oneLine(do)}
}

// oneLine joins the lines of a text.
func oneLine(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "; ")
}
