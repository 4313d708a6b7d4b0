//go:build linux

package node

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// restartPause keeps a program that ends at once from taking the whole CPU.
const restartPause = 500 * time.Millisecond

// program is one of the node's programs.
type program struct {
	name string
	argv []string
	// extra are files that the program gets as descriptors 3, 4, …
	extra []*os.File
}

// supervisor starts programs and starts them again when they end, and reaps
// what is orphaned in the node: it is process 1.
type supervisor struct {
	logger *slog.Logger
	logDir string
	later  func(program) // arranges for a program to be started again

	mu      sync.Mutex
	running map[int]program // by process id
}

// Init is process 1 of the node. It ends on SIGTERM, and everything in the node
// with it.
func Init(logger *slog.Logger) error {
	data, err := os.ReadFile(home + "/node.json")
	if err != nil {
		return fmt.Errorf("read the node's configuration: %w", err)
	}
	var cfg Config
	if err := json.Unmarshal(data, &cfg); err != nil {
		return fmt.Errorf("read the node's configuration: %w", err)
	}
	syscall.CloseOnExec(cfg.HostNetFD) // the relay gets it by name
	if err := settle(); err != nil {
		return err
	}
	if cfg.Index == 0 { // the others have no wire to the laptop
		if err := closeWay(); err != nil {
			return err
		}
	}
	s := &supervisor{logger: logger, logDir: LogDir, running: map[int]program{}}
	s.later = func(p program) { time.AfterFunc(restartPause, func() { s.restart(p) }) }
	// Before anything is started, so that no end is missed.
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGTERM, syscall.SIGINT)
	for _, p := range cfg.first() {
		if err := s.start(p); err != nil {
			return err
		}
	}
	// Ends when the API server is ready, or with the node.
	go s.startSecond(&cfg)
	for sig := range signals {
		if sig != syscall.SIGCHLD {
			logger.Info("ending", "signal", sig.String())
			return nil
		}
		s.reap()
	}
	return nil
}

// startSecond starts the API server's clients once it is ready: those that find
// nobody wait longer and longer, and make the whole start take twice the time.
func (s *supervisor) startSecond(cfg *Config) {
	for !cfg.apiReady() {
		time.Sleep(20 * time.Millisecond)
	}
	for _, p := range cfg.second() {
		s.restart(p)
	}
}

// apiReady asks as nobody in particular, which is allowed from the moment on
// that the API server has made its default roles.
func (c *Config) apiReady() bool {
	client := http.Client{
		Timeout: time.Second,
		// Nothing is sent, and only yes or no is taken from the answer.
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}, //nolint:gosec // see above
	}
	resp, err := client.Get("https://" + net.JoinHostPort(c.Server, strconv.Itoa(APIPort)) + "/readyz")
	if err != nil {
		return false
	}
	defer func() { _ = resp.Body.Close() }()
	return resp.StatusCode == http.StatusOK
}

// start runs a program whose output goes to a log file of its own.
func (s *supervisor) start(p program) error {
	log, err := os.OpenFile(filepath.Join(s.logDir, p.name+".log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	defer func() { _ = log.Close() }()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	defer func() { _ = null.Close() }()

	// Held over the start: a program that ends at once must not be reaped
	// before it is known.
	s.mu.Lock()
	defer s.mu.Unlock()
	proc, err := os.StartProcess(p.argv[0], p.argv, &os.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: append([]*os.File{null, log, log}, p.extra...),
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	s.running[proc.Pid] = p
	s.logger.Info("started", "program", p.name, "pid", proc.Pid)
	return proc.Release() // reap waits for it
}

// reap collects every process that has ended, ours and orphans alike.
func (s *supervisor) reap() {
	for {
		var status syscall.WaitStatus
		s.mu.Lock()
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		p, ours := s.running[pid]
		delete(s.running, pid)
		s.mu.Unlock()
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil || pid <= 0:
			return
		case ours:
			s.logger.Warn("ended; starting it again", "program", p.name, "pid", pid, "status", statusText(status))
			s.later(p)
		}
	}
}

func (s *supervisor) restart(p program) {
	if err := s.start(p); err != nil {
		s.logger.Error("cannot start; trying again", "program", p.name, "error", err)
		s.later(p)
	}
}

func statusText(s syscall.WaitStatus) string {
	if s.Signaled() {
		return s.Signal().String()
	}
	return "exit " + strconv.Itoa(s.ExitStatus())
}
