package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/teleswap/teleswap/bugreport"
	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/host/warden"
	"github.com/teleswap/teleswap/daemon/kube"
	"github.com/teleswap/teleswap/doctor"
)

const (
	// logTail is how much of the end of each of the daemon's logs is taken.
	logTail = 2 << 20
	// clusterPatience bounds what one namespace is asked.
	clusterPatience = 20 * time.Second
)

// leftOut says in the archive, and to who makes it, what is not in it.
const leftOut = `Left out, wherever it would stand: values of variables, credentials of the kubeconfig, tokens, keys, the data of Secrets (they are
not even read), values of annotations that are not Teleswap's, arguments of other containers and of your commands, and what
your processes have written.`

func (a *app) gatherCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "gather [FILE]",
		Short: "Write an archive for a bug report, without secrets",
		Long: `Writes a .tar.gz archive (mode 0600) with what a bug report needs: versions, what teleswap doctor says, the daemon's log,
the ledger, the sessions, and of the namespaces in which there are sessions Teleswap's own objects, the events about them and the
agents' logs. It works without a cluster and without a daemon, too.

` + leftOut + `
Look through it before you pass it on.`,
		Example: "  teleswap gather\n  teleswap gather --namespace shop /tmp/report.tar.gz",
		Args:    oneArgument,
		RunE: func(cmd *cobra.Command, args []string) error {
			name := "teleswap-report-" + time.Now().Format("20060102-150405")
			file := name + ".tar.gz"
			if len(args) > 0 {
				file = args[0]
				name = strings.TrimSuffix(strings.TrimSuffix(filepath.Base(file), ".gz"), ".tar")
			}
			return a.gather(cmd.Context(), file, name)
		},
	}
}

func (a *app) gather(ctx context.Context, file, name string) (err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return usage("%s is there already; name another file, or remove it", file)
	}
	if err != nil {
		return fmt.Errorf("write the archive: %w", err)
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			_ = os.Remove(file)
		}
	}()
	conn, err := a.kube.plainConnection()
	if err != nil {
		return err
	}
	scrub := &bugreport.Scrubber{}
	scrub.Know(conn.Secrets()...)
	g := &gathered{app: a, conn: conn, scrub: scrub}
	g.collect(ctx)
	archive := bugreport.New(f, name, scrub, time.Now())
	for _, p := range append([]part{g.readme()}, g.parts...) {
		if err := archive.Add(p.name, p.about, p.text); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("write the archive: %w", err)
	}
	for _, e := range archive.Entries() {
		fmt.Fprintf(a.err, "%9d  %s  %s\n", e.Bytes, pad(e.Name, 34), e.About)
	}
	for _, problem := range g.problems {
		fmt.Fprintln(a.err, "! not had:", problem)
	}
	fmt.Fprintln(a.err, leftOut)
	_, err = fmt.Fprintln(a.out, file)
	return err
}

// part is a file of the archive.
type part struct {
	name, about string
	text        []byte
}

// gathered is what is collected for an archive.
type gathered struct {
	app      *app
	conn     kube.Connection
	scrub    *bugreport.Scrubber
	parts    []part
	problems []string
}

func (g *gathered) add(name, about string, text []byte) {
	g.parts = append(g.parts, part{name, about, text})
}

func (g *gathered) missed(err error) {
	if err != nil {
		g.problems = append(g.problems, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
}

// addJSON adds a value as JSON.
func (g *gathered) addJSON(name, about string, v any) {
	data, err := json.MarshalIndent(v, "", "  ")
	g.missed(err)
	g.add(name, about, append(data, '\n'))
}

// collect takes everything there is; what cannot be had is a problem, and no reason to end.
func (g *gathered) collect(ctx context.Context) {
	g.machine()
	g.doctor(ctx)
	namespaces := g.daemon(ctx)
	g.files()
	for _, ns := range namespaces {
		g.cluster(ctx, ns)
	}
}

func (g *gathered) readme() part {
	var text bytes.Buffer
	fmt.Fprintf(&text, "Made by teleswap %s (%s) at %s.\n\n", version, buildID(), time.Now().UTC().Format(time.RFC3339))
	for _, p := range g.parts {
		fmt.Fprintf(&text, "%s  %s\n", pad(p.name, 40), p.about)
	}
	fmt.Fprintf(&text, "\n%s\n", leftOut)
	for _, problem := range g.problems {
		fmt.Fprintf(&text, "\nNot had: %s\n", problem)
	}
	return part{"README.txt", "what is in here, and what was left out", text.Bytes()}
}

// machine adds what this machine is. Its files are for all to read.
func (g *gathered) machine() {
	var text bytes.Buffer
	fmt.Fprintf(&text, "teleswap %s build %s, %s %s/%s\n", version, buildID(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	for _, file := range []string{
		"/etc/os-release", "/proc/version", "/etc/resolv.conf", "/proc/sys/user/max_user_namespaces",
		"/proc/sys/kernel/unprivileged_userns_clone", "/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "/proc/net/route",
	} {
		if data, err := os.ReadFile(file); err == nil { // not every system has each
			fmt.Fprintf(&text, "\n--- %s\n%s\n", file, bytes.TrimSpace(data))
		}
	}
	g.add("machine.txt", "versions, the system, its resolver and routes", text.Bytes())
}

func (g *gathered) doctor(ctx context.Context) {
	cfg, err := g.app.doctorConfig()
	if err != nil {
		g.missed(err)
		return
	}
	e := doctor.Run(ctx, cfg, nil)
	defer closeQuietly(e)
	g.addJSON("doctor.json", "what `teleswap doctor` finds", e.Report())
}

// daemon adds the sessions, and returns the namespaces to look at: the current one and those of sessions in its cluster.
func (g *gathered) daemon(ctx context.Context) []string {
	var current string
	c, err := kube.Connect(g.conn, kube.Config{Version: version})
	if err == nil {
		current = c.Namespace()
		closeQuietly(c)
	}
	var namespaces []string
	if current != "" {
		namespaces = append(namespaces, current)
	}
	client, err := g.app.dialRunning(ctx)
	if errors.Is(err, errNoDaemon) {
		g.add("status.json", "the sessions: no daemon runs", []byte("{}\n"))
		return namespaces
	}
	if err != nil {
		g.missed(err)
		return namespaces
	}
	defer closeQuietly(client)
	reply, err := client.Status(ctx, &api.StatusRequest{})
	if err != nil {
		g.missed(errors.New(api.Text(err)))
		return namespaces
	}
	out := statusOf(reply)
	for i := range out.Sessions {
		s := &out.Sessions[i]
		if len(s.Command) > 1 {
			s.Command = []string{s.Command[0], fmt.Sprintf("(%d words left out)", len(s.Command)-1)}
		}
		if s.Context == g.app.kube.context() && s.Namespace != "" && !slices.Contains(namespaces, s.Namespace) {
			namespaces = append(namespaces, s.Namespace)
		}
	}
	g.addJSON("status.json", "the sessions", out)
	return namespaces
}

// files adds the daemon's logs and the ledger.
func (g *gathered) files() {
	for _, name := range []string{g.app.paths.Log, g.app.paths.Log + ".old"} {
		text, err := tailOf(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			g.missed(err)
		default:
			g.add(filepath.Base(name), "the daemon's log", text)
		}
	}
	if text, err := os.ReadFile(filepath.Join(warden.Dir, "host.json")); err == nil { // mostly there is none
		g.add("host.json", "what a connect has changed on this machine", text)
	}
	records, err := filepath.Glob(filepath.Join(g.app.state, "sessions", "*.json"))
	g.missed(err)
	for _, name := range records {
		text, err := os.ReadFile(name)
		if err != nil {
			g.missed(err)
			continue
		}
		g.add("ledger/"+filepath.Base(name), "how to undo a session", text)
	}
}

// tailOf is the end of a file.
func tailOf(name string) (text []byte, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-logTail), logTail))
}

// cluster adds what is ours in a namespace.
func (g *gathered) cluster(ctx context.Context, namespace string) {
	c, err := kube.Connect(g.conn, kube.Config{Version: version})
	if err != nil {
		g.missed(err)
		return
	}
	defer closeQuietly(c)
	ctx, cancel := context.WithTimeout(ctx, clusterPatience)
	defer cancel()
	if _, err := c.ServerVersion(ctx); err != nil { // said once, not for each kind
		g.missed(err)
		return
	}
	found, hidden, err := c.In(namespace).Gather(ctx)
	g.scrub.Know(hidden...)
	g.missed(err)
	for _, e := range found {
		about := "an object of ours in namespace " + namespace
		switch {
		case strings.HasPrefix(e.Name, "log-"):
			about = "an agent's log"
		case e.Name == "events.txt":
			about = "events about our objects in namespace " + namespace
		}
		g.add("cluster/"+namespace+"/"+e.Name, about, e.Data)
	}
}
