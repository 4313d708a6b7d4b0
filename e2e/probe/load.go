package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Report is what became of the requests so far.
type Report struct {
	Sent     int      `json:"sent"`
	Original int      `json:"original"` // answered without dateTime
	Swapped  int      `json:"swapped"`  // answered with dateTime
	New      int      `json:"new"`      // of the answered: on a connection of their own
	Kept     int      `json:"kept"`     // of the answered: on a connection kept alive
	Failed   int      `json:"failed"`
	Failures []string `json:"failures,omitempty"` // the first few, each with its time and kind
	SlowestM int      `json:"slowestMilliseconds"`
}

// load sends requests at a fixed rate, whether or not earlier ones were answered, as a
// crowd of clients does. Every other request goes out on a connection of its
// own; the rest share kept-alive ones.
//
// A kept-alive connection that the server closes in the very moment a request goes out
// on it fails in any cluster, at every rolling update; clients therefore may repeat a
// request that is safe to repeat. The kept half says so by net/http's own
// rule (an Idempotency-Key, which is nil and so never sent): then net/http repeats it
// on a fresh connection if no byte of an answer had come. A request on a
// new connection is never repeated.
type load struct {
	url    string
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	report Report
}

const (
	maxFailuresTold = 20
	requestPatience = 30 * time.Second
)

func newLoad(url string, rate int) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{url: url, cancel: cancel, done: make(chan struct{})}
	go l.run(ctx, rate)
	return l
}

// run ends when ctx does, and after every request sent has ended.
func (l *load) run(ctx context.Context, rate int) {
	defer close(l.done)
	fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: requestPatience}
	kept := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: requestPatience}
	ticker := time.NewTicker(time.Second / time.Duration(rate))
	defer ticker.Stop()
	var requests sync.WaitGroup
	defer requests.Wait()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		requests.Go(func() {
			if n%2 == 0 {
				l.one(fresh, "new")
			} else {
				l.one(kept, "kept")
			}
		})
	}
}

func (l *load) one(client *http.Client, kind string) {
	start := time.Now()
	swapped, err := ask(client, l.url, kind == "kept")
	took := time.Since(start)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report.Sent++
	l.report.SlowestM = max(l.report.SlowestM, int(took.Milliseconds()))
	switch {
	case err != nil:
		l.report.Failed++
		if len(l.report.Failures) < maxFailuresTold {
			l.report.Failures = append(l.report.Failures,
				fmt.Sprintf("%s %s after %s: %v", start.Format("15:04:05.000"), kind, took.Round(time.Millisecond), err))
		}
		return
	case swapped:
		l.report.Swapped++
	default:
		l.report.Original++
	}
	if kind == "kept" {
		l.report.Kept++
	} else {
		l.report.New++
	}
}

// ask says whether the answer came from the newer version.
func ask(client *http.Client, url string, repeatable bool) (bool, error) {
	req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader([]byte(`{"message":"Hi"}`)))
	if err != nil {
		return false, err
	}
	if repeatable {
		req.Header["Idempotency-Key"] = nil
	}
	resp, err := client.Do(req)
	if err != nil {
		return false, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return false, fmt.Errorf("read the answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("status %s: %.200s", resp.Status, body)
	}
	var answer struct {
		Message  string `json:"message"`
		DateTime int64  `json:"dateTime"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return false, fmt.Errorf("answer %.200q: %w", body, err)
	}
	if !strings.Contains(answer.Message, "Hi") {
		return false, fmt.Errorf("answer has a wrong message: %.200s", body)
	}
	return answer.DateTime != 0, nil
}

func (l *load) now() Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.report
}

func (p *probe) startLoad(w http.ResponseWriter, r *http.Request) {
	rate, err := strconv.Atoi(r.FormValue("rate"))
	if err != nil || rate < 1 {
		http.Error(w, "rate must be a number of requests per second", http.StatusBadRequest)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.load != nil {
		http.Error(w, "a load is running", http.StatusConflict)
		return
	}
	p.load = newLoad(r.FormValue("url"), rate)
	reply(w, p.load.now())
}

func (p *probe) reportLoad(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	l := p.load
	p.mu.Unlock()
	if l == nil {
		http.Error(w, "no load is running", http.StatusNotFound)
		return
	}
	reply(w, l.now())
}

func (p *probe) stopLoad(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	l := p.load
	p.load = nil
	p.mu.Unlock()
	if l == nil {
		http.Error(w, "no load is running", http.StatusNotFound)
		return
	}
	l.cancel()
	<-l.done
	reply(w, l.now())
}
