package scene

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/teleswap/teleswap/e2e/bench/place"
	"github.com/teleswap/teleswap/e2e/bench/report"
)

// Work is the deployment in whose place people work; its pod has a volume at VolumePath.
const (
	Work       = "bench-work"
	VolumePath = "/bench-volume"
)

// shell is a sh that is told lines. Not safe for concurrent use.
type shell struct {
	process *place.Process
	out     *bufio.Reader
}

func (s *Scene) shell(argv ...string) (*shell, error) {
	process, err := place.Start(s.Laptop.Command(argv...))
	if err != nil {
		return nil, err
	}
	return &shell{process, bufio.NewReader(process.Stdout)}, nil
}

// run has the line run and returns how long that took, and its output's last line.
func (sh *shell) run(ctx context.Context, line string) (float64, string, error) {
	// When ctx ends the shell does, and with it its output.
	stop := context.AfterFunc(ctx, func() { _ = sh.process.Stop(time.Second) })
	defer stop()
	start := time.Now()
	_, err := fmt.Fprintf(sh.process.Stdin, "last=$( { %s ; } 2>&1 </dev/null ); echo \"$? $(printf %%s \"$last\" | tail -n 1)\"\n", line)
	if err != nil {
		return 0, "", fmt.Errorf("tell the shell %q: %w", line, err)
	}
	answer, err := sh.out.ReadString('\n')
	if err != nil {
		return 0, "", errors.Join(fmt.Errorf("%s: %w; stderr: %s", line, err, sh.process.Stderr().Tail(5)), ctx.Err())
	}
	status, last, _ := strings.Cut(strings.TrimSpace(answer), " ")
	if status != "0" {
		return 0, "", fmt.Errorf("%s: status %s: %s", line, status, last)
	}
	return milliseconds(time.Since(start)), last, nil
}

// job is one thing to time.
type job struct {
	name    string
	prepare string // run once on each side, or where there is an other only outside, untimed; "" for none
	line    string
	other   string // what is run outside instead of line; "" for the same
	atMost  float64
	only    bool // there is nothing outside to compare with
	own     bool // the line's output is the time, in milliseconds; that of other is not
}

// jobs are the things. The source's folder is ./src, the package to install ./npm.
func (s *Scene) jobs() []job {
	return []job{
		{
			name: "go build -a of the agent", line: "cd src && GOFLAGS=-mod=vendor CGO_ENABLED=0 go build -a -o /dev/null ./cmd/teleswap-agent && cd ..", atMost: 1.05,
			prepare: "(cd src && GOFLAGS=-mod=vendor CGO_ENABLED=0 go build -o /dev/null ./cmd/teleswap-agent)",
		},
		{name: "npm ci of 40 packages", line: "cd npm && npm ci --offline --no-audit --no-fund --silent && cd ..", atMost: 1.05, prepare: "npm --version"},
		{
			name: "a name that does not exist, cached", line: s.Probe + " absent --times 200 no-such-name.default.svc.cluster.local.",
			atMost: 2, only: true, own: true,
		},
		{
			name: "listing 10,000 files of a volume", line: "test $(ls -f " + VolumePath + "/many | wc -l) -ge 10000",
			prepare: "mkdir -p " + VolumePath + "/many && cd " + VolumePath + "/many && seq 10000 | xargs touch && cd - >/dev/null", atMost: 2000, only: true,
		},
	}
}

// TimeWork times the jobs on the laptop and in the sandbox of one swap, in turns, that many rounds.
// source is this repository.
func (s *Scene) TimeWork(ctx context.Context, source string, rounds int) ([]report.Work, error) {
	if err := s.layOutWork(ctx, source); err != nil {
		return nil, err
	}
	outside, inside, stop, err := s.shells(ctx)
	if err != nil {
		return nil, err
	}
	defer stop()
	return s.timeJobs(ctx, s.jobs(), outside, inside, rounds), ctx.Err()
}

// shells are one on the laptop and one in the sandbox of a swap; stop ends both.
func (s *Scene) shells(ctx context.Context) (outside, inside *shell, stop func(), err error) {
	if outside, err = s.shell("/bin/sh"); err != nil {
		return nil, nil, nil, err
	}
	if inside, err = s.swappedShell(ctx); err != nil {
		_ = outside.process.Stop(stopPatience)
		return nil, nil, nil, err
	}
	return outside, inside, func() {
		_ = inside.process.Stop(stopPatience)
		_ = outside.process.Stop(stopPatience)
	}, nil
}

// swappedShell is in the sandbox of a swap.
func (s *Scene) swappedShell(ctx context.Context) (*shell, error) {
	argv := []string{s.Teleswap, "swap", "--deployment", Work + ":app", "-n", s.Namespace}
	if s.AgentImage != "" {
		argv = append(argv, "--agent-image", s.AgentImage)
	}
	// Something listens on the target's port, as a swap is not done before.
	inside, err := s.shell(append(argv, "--run", "/bin/sh", "-c",
		fmt.Sprintf("%s serve --listen :%d </dev/null >/dev/null & exec /bin/sh", s.Probe, s.Port))...)
	if err != nil {
		return nil, err
	}
	waiting, cancel := context.WithTimeout(ctx, swapPatience)
	defer cancel()
	if _, err := inside.process.Stderr().Await(waiting, isSwapped); err != nil {
		_ = inside.process.Stop(stopPatience)
		return nil, fmt.Errorf("wait until %s is swapped: %w", Work, err)
	}
	return inside, nil
}

func (s *Scene) timeJobs(ctx context.Context, jobs []job, outside, inside *shell, rounds int) []report.Work {
	var all []report.Work
	for _, j := range jobs {
		w := report.Work{Name: j.name, AtMost: j.atMost}
		if err := s.timeJob(ctx, j, &w, outside, inside, rounds); err != nil {
			w.Error = err.Error()
			s.Logger.Warn("work failed", "name", j.name, "err", err)
		}
		all = append(all, w)
		s.Logger.Info("work timed", "name", j.name, "outside", w.Outside, "inside", w.Inside)
	}
	return all
}

func (s *Scene) timeJob(ctx context.Context, j job, w *report.Work, outside, inside *shell, rounds int) error {
	sides := []struct {
		sh   *shell
		into *[]float64
	}{{outside, &w.Outside}, {inside, &w.Inside}}
	if j.only {
		sides = sides[1:]
	}
	if j.prepare != "" {
		preparing := sides
		if j.other != "" {
			preparing = sides[:1]
		}
		for _, side := range preparing {
			if _, _, err := side.sh.run(ctx, j.prepare); err != nil {
				return err
			}
		}
	}
	for round := range rounds {
		for i := range sides {
			side := sides[(round+i)%len(sides)]
			line, own := j.line, j.own
			if j.other != "" && side.sh == outside {
				line, own = j.other, false
			}
			took, last, err := side.sh.run(ctx, line)
			if err != nil {
				return err
			}
			if own {
				if _, err := fmt.Sscan(last, &took); err != nil {
					return fmt.Errorf("%s: read its time %q: %w", j.name, last, err)
				}
			}
			*side.into = append(*side.into, took)
		}
	}
	return nil
}

// layOutWork puts the source, with what it needs, and a package to install into the user's home.
func (s *Scene) layOutWork(ctx context.Context, source string) error {
	src := filepath.Join(s.Laptop.Dir, "src")
	// Only what is tracked: no builds, no caches.
	script := `set -e; mkdir -p "$2"; cd "$1"; git ls-files -z | tar -c --null -T - | tar -x -C "$2"; cd "$2"; go mod vendor`
	if out, err := exec.CommandContext(ctx, "sh", "-c", script, "sh", source, src).CombinedOutput(); err != nil {
		return fmt.Errorf("lay out the source: %w: %s", err, out)
	}
	npm := filepath.Join(s.Laptop.Dir, "npm")
	dependencies := make([]string, 40)
	for i := range dependencies {
		dir := filepath.Join(npm, "packages", fmt.Sprintf("dep-%02d", i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("lay out a package: %w", err)
		}
		files := map[string]string{"package.json": fmt.Sprintf(`{"name": "dep-%02d", "version": "1.0.0"}`, i)}
		for j := range 50 {
			files[fmt.Sprintf("file-%02d.js", j)] = strings.Repeat(fmt.Sprintf("module.exports.x%d = %d;\n", j, i), 200)
		}
		if err := writeFiles(dir, files); err != nil {
			return err
		}
		dependencies[i] = fmt.Sprintf(`"dep-%02d": "file:dep-%02d-1.0.0.tgz"`, i, i)
	}
	if err := writeFiles(npm, map[string]string{"package.json": `{"name": "work", "version": "1.0.0", "dependencies": {` + strings.Join(dependencies, ", ") + `}}`}); err != nil {
		return err
	}
	if s.Laptop.User != nil {
		owner := fmt.Sprintf("%d:%d", s.Laptop.User.UID, s.Laptop.User.GID)
		if out, err := exec.CommandContext(ctx, "chown", "-R", owner, src, npm).CombinedOutput(); err != nil {
			return fmt.Errorf("give the work to the user: %w: %s", err, out)
		}
	}
	// Where there is no npm the job says so.
	pack := `cd npm && for p in packages/*; do (cd $p && tar -czf "../../$(basename $p)-1.0.0.tgz" --transform 's,^\.,package,' .); done && npm install --offline --package-lock-only --silent`
	if _, err := place.Output(ctx, s.Laptop.Command("sh", "-c", pack), ""); err != nil {
		s.Logger.Warn("no package to install", "err", err)
	}
	return nil
}

func writeFiles(dir string, files map[string]string) error {
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("lay out work: %w", err)
		}
	}
	return nil
}
