package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/teleswap/teleswap/doctor"
)

const (
	// farVerb is this program as the process of a round trip's session.
	farVerb = "doctor-far"
	// farAddress is a name that every cluster has; whatever answers there will do.
	farAddress = "https://kubernetes.default.svc/version"
	// farPatience bounds each of the requests.
	farPatience = 15 * time.Second
	// farProxy is the variable that tells farVerb of a proxy, where it has no sandbox.
	farProxy = "ALL_PROXY"
)

// farReport is what the process of a round trip has seen.
type farReport struct {
	First  time.Duration `json:"first"`  // to the first answer: name, connection, TLS
	Second time.Duration `json:"second"` // to the second, on the same connection
	Error  string        `json:"error,omitempty"`
}

// roundTrip swaps what it makes itself for a process that calls the API server from in there, with or without a sandbox.
func (a *app) roundTrip(ctx context.Context, plain bool) doctor.Finding {
	const check = "round trip"
	began := time.Now()
	report, err := a.throughCluster(ctx, plain)
	var exit *exitError
	switch {
	case errors.As(err, &exit) && exit.err == nil:
		return doctor.Failed(check, fmt.Errorf("the process in the cluster ended with status %d; the daemon's log: %s", exit.status, a.paths.Log))
	case err != nil:
		return doctor.Failed(check, err)
	case report.Error != "":
		return doctor.Finding{
			Check: check, State: doctor.Not, Says: "the agent came, but a process in its place does not reach the API server: " + report.Error,
			Do: "a NetworkPolicy of the namespace may forbid it, or its DNS; a pod there would fare no better",
		}
	}
	return doctor.Finding{
		Check: check, State: doctor.OK,
		Says: fmt.Sprintf("an agent came and went, all in %s; a request to the API server by way of it took %s, the first one, with name and TLS, %s",
			short(time.Since(began)), report.Second.Round(100*time.Microsecond), short(report.First)),
	}
}

// throughCluster runs the session of a round trip. What it says of its steps is left out, for errors say it again.
func (a *app) throughCluster(ctx context.Context, plain bool) (report farReport, err error) {
	exe, err := os.Executable()
	if err != nil {
		return report, fmt.Errorf("find this program: %w", err)
	}
	out, err := os.CreateTemp("", "teleswap-doctor-")
	if err != nil {
		return report, fmt.Errorf("make room for the answer: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close(), os.Remove(out.Name())) }()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return report, err
	}
	defer closeQuietly(null)
	quiet := *a
	quiet.in, quiet.out, quiet.err = null, out, null
	o := swapOptions{agent: agentFlags{image: defaultImage(os.Getenv)}, fresh: newFlags{name: "teleswap-doctor-" + strings.ToLower(rand.Text()[:6])}, plain: plainFlags{noSandbox: plain}}
	req, err := quiet.swapRequest(&o, nil, -1, []string{exe, farVerb})
	if err != nil {
		return report, err
	}
	req.New, req.NoVolumes = true, true
	if err := quiet.swap(ctx, req, wishes{}); err != nil {
		return report, err
	}
	data, err := io.ReadAll(io.NewSectionReader(out, 0, 1<<20))
	if err != nil {
		return report, err
	}
	if err := json.Unmarshal(data, &report); err != nil {
		return report, fmt.Errorf("the process in the cluster said %q", data)
	}
	return report, nil
}

// farCommand is the process of a round trip. Nobody types it.
func (a *app) farCommand() *cobra.Command {
	return &cobra.Command{
		Use:    farVerb,
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			report := seeFar(cmd.Context(), farAddress, os.Getenv(farProxy))
			return json.NewEncoder(a.out).Encode(report)
		},
	}
}

// seeFar asks for something twice, by a proxy if one is named.
func seeFar(ctx context.Context, address, proxy string) (r farReport) {
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // nothing is said, and no answer believed
		MaxConnsPerHost: 1,
	}
	if at, found := strings.CutPrefix(proxy, "socks5h://127.0.0.1:"); found {
		transport.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: "127.0.0.1:" + at})
	}
	defer transport.CloseIdleConnections()
	for _, took := range []*time.Duration{&r.First, &r.Second} {
		began := time.Now()
		if err := askFar(ctx, transport, address); err != nil {
			r.Error = err.Error()
			return r
		}
		*took = time.Since(began)
	}
	return r
}

func askFar(ctx context.Context, transport http.RoundTripper, address string) error {
	ctx, cancel := context.WithTimeout(ctx, farPatience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close())
}
