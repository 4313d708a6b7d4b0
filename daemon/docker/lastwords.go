package docker

import (
	"strings"
	"sync"
)

// LastWords keeps the end of what a program writes, to say why it failed. It is safe for concurrent use.
type LastWords struct {
	mu   sync.Mutex
	kept []byte
}

// keptWords is how much of it is kept, in bytes.
const keptWords = 2 << 10

// Write implements io.Writer; it never fails.
func (l *LastWords) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = append(l.kept, p...)
	l.kept = l.kept[max(0, len(l.kept)-keptWords):]
	return len(p), nil
}

// Or is what was written, without space around it; where nothing was, an error's text.
func (l *LastWords) Or(err error) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if said := strings.TrimSpace(string(l.kept)); said != "" {
		return said
	}
	return err.Error()
}
