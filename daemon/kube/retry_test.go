package kube

import (
	"context"
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	busy    = apierrors.NewTooManyRequests("slow down", 1)
	broken  = apierrors.NewInternalError(errors.New("etcd"))
	refused = &netError{syscall.ECONNREFUSED}
	missing = apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, "x")
)

// netError is a net.Error around an errno, as dials give it.
type netError struct{ error }

func (netError) Timeout() bool   { return false }
func (netError) Temporary() bool { return false }
func (e netError) Unwrap() error { return e.error }

func TestRetry(t *testing.T) {
	for _, tc := range []struct {
		name   string
		errs   []error // one per try; the last repeats
		tries  int     // of call
		insist int     // tries of insist; 0: until ctx ends
	}{
		{"at once", []error{nil}, 1, 1},
		{"busy, then fine", []error{busy, broken, nil}, 3, 3},
		{"connection lost, then fine", []error{io.ErrUnexpectedEOF, syscall.ECONNRESET, nil}, 3, 3},
		{"busy for long", []error{busy}, fewTries, 0},
		{"not found", []error{missing}, 1, 1},
		{"not there, then fine", []error{refused, refused, refused, refused, refused, refused, nil}, 1, 7},
		{"not there", []error{refused}, 1, 0},
		{"no answer", []error{context.DeadlineExceeded}, 1, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := onFake(nil)
				tries := 0
				do := func(context.Context) error {
					tries++
					return tc.errs[min(tries, len(tc.errs))-1]
				}
				err := c.call(t.Context(), "do it", do)
				if tries != tc.tries || (err == nil) != (tc.errs[min(tries, len(tc.errs))-1] == nil) {
					t.Errorf("call: %d tries, want %d; %v", tries, tc.tries, err)
				}
				tries = 0
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				err = c.insist(ctx, "do it", do)
				switch {
				case tc.insist == 0 && (ctx.Err() == nil || !errors.Is(err, context.DeadlineExceeded)):
					t.Errorf("insist gave up after %d tries: %v", tries, err)
				case tc.insist == 0 && tries < 12:
					t.Errorf("insist tried %d times in a minute", tries)
				case tc.insist != 0 && tries != tc.insist:
					t.Errorf("insist: %d tries, want %d; %v", tries, tc.insist, err)
				}
			})
		})
	}
}

func TestInsistSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := onFake(nil).insist(ctx, "scale deployment/web", func(context.Context) error { return refused })
		var none *NoClusterError
		if !errors.As(err, &none) || !strings.Contains(err.Error(), "gave up") {
			t.Errorf("got %v", err)
		}
	})
}
