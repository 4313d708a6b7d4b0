//go:build linux

package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os/exec"
	"sync"
	"time"
)

const (
	// retryPause is before what failed is tried again.
	retryPause = 500 * time.Millisecond
	// gather is how long a change waits for those that come with it.
	gather = 10 * time.Millisecond
	// watchSeconds is after what time the API server is to end a watch, which is then begun anew.
	watchSeconds = "300"
)

// Enforcer keeps the node's table as the cluster's policies say.
type Enforcer struct {
	Server string       // the API server: https://host:port
	Client *http.Client // who may list and watch pods, namespaces and policies
	Logger *slog.Logger
	// Apply gives a script to nft; nil: does that.
	Apply func(ctx context.Context, script string) error

	mu     sync.Mutex
	state  state
	listed int // kinds that are known whole

	changed chan struct{} // capacity 1
}

// Run works until ctx ends, and leaves the table as it is: it goes with the namespace.
func (e *Enforcer) Run(ctx context.Context) error {
	if e.Apply == nil {
		e.Apply = nft
	}
	e.changed = make(chan struct{}, 1)
	var following sync.WaitGroup
	defer following.Wait()
	following.Go(func() {
		follow(ctx, e, "/api/v1/namespaces", func(s *state) *map[string]namespace { return &s.namespaces })
	})
	following.Go(func() { follow(ctx, e, "/api/v1/pods", func(s *state) *map[string]pod { return &s.pods }) })
	following.Go(func() {
		follow(ctx, e, "/apis/networking.k8s.io/v1/networkpolicies", func(s *state) *map[string]networkPolicy { return &s.policies })
	})
	e.applyLoop(ctx)
	return context.Cause(ctx)
}

// applyLoop writes the table whenever it would be another. It ends with ctx.
func (e *Enforcer) applyLoop(ctx context.Context) {
	const kinds = 3
	var applied string
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.changed:
		}
		pause(ctx, gather)
		e.mu.Lock()
		known, script := e.listed == kinds, ""
		if known {
			script = e.state.ruleset()
		}
		e.mu.Unlock()
		if !known || script == applied {
			continue
		}
		if err := e.Apply(ctx, script); err != nil {
			e.Logger.Error("cannot write the rules; trying again", "error", err)
			pause(ctx, retryPause)
			e.poke()
			continue
		}
		applied = script
		e.Logger.Info("rules written", "bytes", len(script))
	}
}

func (e *Enforcer) poke() {
	select {
	case e.changed <- struct{}{}:
	default: // one is due already
	}
}

func nft(ctx context.Context, script string) error {
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = bytes.NewBufferString(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// follow keeps one kind of object as the API server has it, by list and watch
// (https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes), until ctx ends.
func follow[T object](ctx context.Context, e *Enforcer, path string, of func(*state) *map[string]T) {
	first := true
	for ctx.Err() == nil {
		var list struct {
			Metadata meta `json:"metadata"`
			Items    []T  `json:"items"`
		}
		err := e.get(ctx, path, func(body io.Reader) error { return json.NewDecoder(body).Decode(&list) })
		if err == nil {
			known := map[string]T{}
			for _, o := range list.Items {
				known[o.key()] = o
			}
			e.mu.Lock()
			*of(&e.state) = known
			if first {
				e.listed++
				first = false
			}
			e.mu.Unlock()
			e.poke()
			query := "?watch=true&timeoutSeconds=" + watchSeconds + "&resourceVersion=" + list.Metadata.ResourceVersion
			err = e.get(ctx, path+query, func(body io.Reader) error { return watch(e, body, known) })
		}
		if err != nil && ctx.Err() == nil {
			e.Logger.Warn("following anew", "path", path, "error", err)
			pause(ctx, retryPause)
		}
	}
}

// watch takes the events of one watch into known, until its end.
func watch[T object](e *Enforcer, body io.Reader, known map[string]T) error {
	decoder := json.NewDecoder(body)
	for {
		var event struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := decoder.Decode(&event); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if event.Type == "ERROR" {
			return fmt.Errorf("watch: %.300s", event.Object)
		}
		var o T
		if err := json.Unmarshal(event.Object, &o); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		e.mu.Lock()
		if event.Type == "DELETED" {
			delete(known, o.key())
		} else {
			known[o.key()] = o
		}
		e.mu.Unlock()
		e.poke()
	}
}

func (e *Enforcer) get(ctx context.Context, path string, read func(io.Reader) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.Server+path, nil)
	if err != nil {
		return err
	}
	resp, err := e.Client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	return read(resp.Body)
}
