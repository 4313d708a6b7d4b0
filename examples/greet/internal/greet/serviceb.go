package greet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// ServiceB gives service-b's routes: POST /api/serviceB answers what it is
// told.
func ServiceB() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/serviceB", func(w http.ResponseWriter, r *http.Request) {
		m, err := readMessage(w, r)
		if err != nil {
			writeError(w, http.StatusBadRequest, err)
			return
		}
		writeJSON(w, http.StatusOK, m)
	})
	mux.HandleFunc("GET /healthz", healthy)
	return mux
}

// readMessage reads a request's body: one JSON object with a message.
func readMessage(w http.ResponseWriter, r *http.Request) (Message, error) {
	var m Message
	body := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	if err := body.Decode(&m); err != nil {
		return m, fmt.Errorf("the body is not the JSON that is wanted, {\"message\": \"Hi\"}: %w", err)
	}
	if _, err := body.Token(); !errors.Is(err, io.EOF) {
		return m, errors.New("the body goes on after the JSON object")
	}
	if m.Message == "" {
		return m, errors.New("the message is missing or empty")
	}
	return m, nil
}

func healthy(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, "ok\n") // a prober that has gone does not care
}

func writeError(w http.ResponseWriter, status int, err error) {
	writeJSON(w, status, map[string]string{"error": err.Error()})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the status is sent: nobody is left to tell
}
