package sandbox

import (
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"strings"
)

// Request makes a hook's GET as the kubelet does: no certificate is checked, and any answer is good (kubelet's
// lifecycle handlers).
func Request(h *Hook) error {
	req, err := http.NewRequest(http.MethodGet, h.URL, http.NoBody) //nolint:noctx // it ends with the sandbox
	if err != nil {
		return err
	}
	for _, line := range h.Headers {
		name, value, _ := strings.Cut(line, ": ")
		if strings.EqualFold(name, "Host") {
			req.Host = value
		}
		req.Header.Add(name, value)
	}
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // as the kubelet does, and it is our own process
	}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 10<<10))
	return errors.Join(err, resp.Body.Close())
}
