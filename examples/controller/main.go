// Command controller is a small Kubernetes controller with an admission webhook, to be
// swapped: it answers ConfigMaps that greet, refuses those that greet nobody, and lists
// the pods that its ServiceAccount may see. Its configuration is rest.InClusterConfig, as
// every controller's, and it knows nothing of Teleswap.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// options are the command line's.
type options struct {
	webhook, http string // addresses to listen on
	certs         string // folder with tls.crt and tls.key
	by            string // who signs
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("controller: ")
	host, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	var o options
	flag.StringVar(&o.webhook, "webhook", ":8443", "address of the admission webhook")
	flag.StringVar(&o.http, "http", ":8080", "address of /readyz and /pods")
	flag.StringVar(&o.certs, "certs", "/certs", "folder with tls.crt and tls.key")
	flag.StringVar(&o.by, "by", host, "who signs the answers")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		log.Fatal(err)
	}
}

// namespaceFile is where a pod learns its namespace, as client-go does.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

func run(ctx context.Context, o options) error {
	config, err := rest.InClusterConfig()
	if err != nil {
		return fmt.Errorf("find the cluster: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	namespace, err := os.ReadFile(namespaceFile)
	if err != nil {
		return fmt.Errorf("which namespace is this: %w", err)
	}
	c := &controller{client: client, namespace: strings.TrimSpace(string(namespace)), by: o.by}
	return serve(ctx, o, c)
}

// serve ends when ctx does, or with the first part that fails.
func serve(ctx context.Context, o options, c *controller) error {
	plain := &http.Server{Addr: o.http, Handler: c.handler(), ReadHeaderTimeout: time.Minute}
	hook := &http.Server{Addr: o.webhook, Handler: http.HandlerFunc(c.serveAdmission), ReadHeaderTimeout: time.Minute}
	ended := make(chan error, 3)
	go func() { ended <- plain.ListenAndServe() }()
	go func() {
		ended <- hook.ListenAndServeTLS(filepath.Join(o.certs, "tls.crt"), filepath.Join(o.certs, "tls.key"))
	}()
	go func() { ended <- c.watch(ctx) }()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := errors.Join(hook.Shutdown(last), plain.Shutdown(last)); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}
