package kube

import (
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http/httptest"
	"testing"

	"github.com/spf13/pflag"
	"go.uber.org/goleak"
	authz "k8s.io/api/authorization/v1"
	"k8s.io/client-go/kubernetes"
	k8stesting "k8s.io/client-go/testing"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// klog, which client-go logs with, flushes for as long as the process lives.
		goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"),
		// spdystream waits up to a second, after a close that failed, for somebody to ask why.
		goleak.IgnoreTopFunction("github.com/moby/spdystream.(*Connection).shutdown"),
	)
}

// onFake is a Cluster over a fake client, in namespace shop.
func onFake(client kubernetes.Interface) *Cluster {
	return &Cluster{
		client: client, namespace: "shop", server: "https://fake", context: "fake", user: "jane",
		timeout: callTimeout, log: slog.New(slog.DiscardHandler),
	}
}

// onServer is a Cluster connected to a test server as a user with a token would be.
func onServer(t *testing.T, server *httptest.Server) *Cluster {
	t.Helper()
	c, err := Connect(Connection{Server: server.URL, InsecureSkipTLSVerify: server.TLS != nil, Token: "secret-token", Namespace: "shop"}, Config{Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func newFlagSet(t *testing.T) *pflag.FlagSet {
	t.Helper()
	return pflag.NewFlagSet(t.Name(), pflag.ContinueOnError)
}

// discardLog is for test servers whose clients misbehave on purpose.
func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }

func reviewOf(action k8stesting.Action) *authz.SelfSubjectAccessReview {
	return action.(k8stesting.CreateActionImpl).Object.(*authz.SelfSubjectAccessReview).DeepCopy()
}

// closeOf closes at the test's end what was not closed before.
func closeOf(t *testing.T, c io.Closer) {
	t.Helper()
	t.Cleanup(func() {
		if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
}
