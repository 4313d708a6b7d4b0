package main

import (
	"context"
	"testing"
)

// expired is a context that grants no waiting.
func expired(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
