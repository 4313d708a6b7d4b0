// Package greet holds the two services of the greeting scene: service-a, which
// the world asks, and service-b, which service-a asks. The commands next to it
// add only main functions.
package greet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"
)

// maxBody bounds what either service reads of a request or an answer.
const maxBody = 64 << 10

// ServiceBURL is where service-a asks, by the name of the Service.
const ServiceBURL = "http://service-b:5100/api/serviceB"

// Message is what the services are asked with, and what service-b answers.
type Message struct {
	Message string `json:"message"`
}

// Greeting is what service-a answers.
type Greeting struct {
	Env      string `json:"env"`
	Message  string `json:"message"`
	DateTime int64  `json:"dateTime,omitempty"` // Unix seconds
}

// ServiceA answers POST /api/serviceA. It is safe for concurrent use.
type ServiceA struct {
	Word   string           // the greeting's first word, from the Secret
	Env    string           // which environment this is, from the ConfigMap
	Ask    string           // service-b's URL
	Client *http.Client     // nil means http.DefaultClient
	Now    func() time.Time // the clock for DateTime; nil leaves it out
	Logger *slog.Logger
}

// askPatience is how long service-a waits for service-b.
const askPatience = 5 * time.Second

// ServiceAFromEnv takes the configuration from the environment that the pod's
// Secret and ConfigMap give.
func ServiceAFromEnv(getenv func(string) string, logger *slog.Logger) (*ServiceA, error) {
	a := &ServiceA{Word: getenv("GREETING"), Env: getenv("GREET_ENV"), Ask: ServiceBURL, Logger: logger}
	var missing []error
	if a.Word == "" {
		missing = append(missing, errors.New("GREETING is not set (Secret greet-words)"))
	}
	if a.Env == "" {
		missing = append(missing, errors.New("GREET_ENV is not set (ConfigMap greet-settings)"))
	}
	return a, errors.Join(missing...)
}

// Handler gives the service's routes.
func (a *ServiceA) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/serviceA", a.greet)
	mux.HandleFunc("GET /healthz", healthy)
	return mux
}

func (a *ServiceA) greet(w http.ResponseWriter, r *http.Request) {
	asked, err := readMessage(w, r)
	if err != nil {
		writeError(w, http.StatusBadRequest, err)
		return
	}
	reply, err := a.askB(r.Context(), asked)
	if err != nil {
		a.Logger.Error("service-b", "error", err)
		writeError(w, http.StatusBadGateway, err)
		return
	}
	g := Greeting{Env: a.Env, Message: a.Word + " " + reply.Message}
	if a.Now != nil {
		g.DateTime = a.Now().Unix()
	}
	writeJSON(w, http.StatusOK, g)
}

func (a *ServiceA) askB(ctx context.Context, m Message) (Message, error) {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	body, err := json.Marshal(m)
	if err != nil {
		return Message{}, fmt.Errorf("encode the question to service-b: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.Ask, bytes.NewReader(body))
	if err != nil {
		return Message{}, fmt.Errorf("ask service-b: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	client := a.Client
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return Message{}, fmt.Errorf("ask service-b: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return Message{}, fmt.Errorf("ask service-b: %s", resp.Status)
	}
	var reply Message
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&reply); err != nil {
		return Message{}, fmt.Errorf("read service-b's answer: %w", err)
	}
	return reply, nil
}
