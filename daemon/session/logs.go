package session

import (
	"context"
	"errors"
	"fmt"

	"github.com/teleswap/teleswap/proxy/tunnel"
)

// errNoLink says that there is no way to the agent: not yet, or not any more.
var errNoLink = errors.New("the session has no agent")

// Log passes output of the process on to the agent's own; it waits while the way is full or broken.
func (s *Session) Log(ctx context.Context, stderr bool, p []byte) error {
	link := s.currentLink()
	if link == nil {
		return errNoLink
	}
	return link.Logs(ctx, stderr, p)
}

// EndLogs returns when the agent has written all of it, or cannot.
func (s *Session) EndLogs() error {
	link := s.currentLink()
	if link == nil {
		return errNoLink
	}
	return link.EndLogs()
}

func (s *Session) setLink(l Link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.link = l
}

func (s *Session) currentLink() Link {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.link
}

// Logs implements Link. A tunnel that breaks loses what was on its way.
func (l *agentLink) Logs(ctx context.Context, stderr bool, p []byte) error {
	for {
		client, err := l.Working(ctx)
		switch {
		case err != nil && (l.Err() != nil || ctx.Err() != nil):
			return err
		case err != nil:
			continue // it waited long for a tunnel; wait on
		}
		stream, err := l.logStream(ctx, client)
		if err == nil {
			err = stream.Write(stderr, p)
		}
		if err == nil {
			return nil
		}
		select {
		case <-client.Done(): // again, on the next one
		default:
			return fmt.Errorf("write to the pod's log: %w", err)
		}
	}
}

// logStream is the stream of that client, opened when it is first needed.
func (l *agentLink) logStream(ctx context.Context, client *tunnel.Client) (*tunnel.LogStream, error) {
	l.logsMu.Lock()
	defer l.logsMu.Unlock()
	if l.logs != nil && l.logsOf == client {
		return l.logs, nil
	}
	stream, err := client.Logs(ctx)
	if err != nil {
		return nil, err
	}
	l.logs, l.logsOf = stream, client
	return stream, nil
}

// EndLogs implements Link.
func (l *agentLink) EndLogs() error {
	l.logsMu.Lock()
	defer l.logsMu.Unlock()
	if l.logs == nil {
		return nil
	}
	err := l.logs.Close()
	l.logs, l.logsOf = nil, nil
	return err
}
