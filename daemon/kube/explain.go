package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"regexp"
	"strings"
	"syscall"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// explain turns an error of a call into one that a person can act on. doing says what
// was tried: "read deployment/web". Errors that are clear already stay.
func (c *Cluster) explain(doing string, err error) error {
	if err == nil || isExplained(err) {
		return err
	}
	switch {
	case apierrors.IsUnauthorized(err):
		return &ExpiredError{Context: c.context, User: c.user, Server: c.server, Err: err}
	case apierrors.IsForbidden(err):
		return c.explainForbidden(doing, err)
	case isCredentialFailure(err):
		return &ExpiredError{
			Context: c.context, User: c.user, Server: c.server,
			Reason: "no credentials could be had: " + innermost(err), Err: err,
		}
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return fmt.Errorf("%s: %w", doing, err) // the server was reached and says what is wrong
	}
	if reason, hint := unreachable(err); reason != "" {
		return &NoClusterError{Server: c.server, Reason: reason, Hint: hint, Err: err}
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// isExplained reports whether an error is one of this package's own.
func isExplained(err error) bool {
	var (
		noCluster  *NoClusterError
		expired    *ExpiredError
		permission *MissingPermissionError
		notFound   *NotFoundError
		swapped    *AlreadySwappedError
		stuck      *PodStuckError
		made       *NewError
	)
	return errors.As(err, &noCluster) || errors.As(err, &expired) || errors.As(err, &permission) ||
		errors.As(err, &notFound) || errors.As(err, &swapped) || errors.As(err, &stuck) || errors.As(err, &made)
}

// isCredentialFailure recognises what client-go's plugins say when they cannot log in;
// they have no error types.
func isCredentialFailure(err error) bool {
	text := err.Error()
	return strings.Contains(text, "getting credentials:") || strings.Contains(text, "failed to refresh token") ||
		strings.Contains(text, "tls: expired certificate") || strings.Contains(text, "tls: certificate required")
}

// rbacDenial is how the API server words a denial by its authorizers. Denials by
// admission (quota, Pod Security, webhooks) are worded otherwise.
var rbacDenial = regexp.MustCompile(`(?:User "([^"]*)" )?cannot (\S+) resource "([^"]+)" in API group "([^"]*)"(?: in the namespace "([^"]*)")?`)

func (c *Cluster) explainForbidden(doing string, err error) error {
	match := rbacDenial.FindStringSubmatch(err.Error())
	if match == nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	namespace := match[5]
	e := &MissingPermissionError{
		User: match[1], Namespace: namespace, Err: err,
		Missing: []Missing{{Verb: match[2], Group: match[4], Resource: match[3], Namespace: namespace}},
	}
	if e.Namespace == "" {
		e.Namespace = c.namespace
	}
	return e
}

// isDenied reports whether an authorizer refused a call.
func isDenied(err error) bool {
	var permission *MissingPermissionError
	return errors.As(err, &permission) || apierrors.IsForbidden(err) && rbacDenial.MatchString(err.Error())
}

// unreachable says why the API server was not reached; empty when err is of another kind.
func unreachable(err error) (reason, hint string) {
	var (
		dns       *net.DNSError
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		request   *url.Error
		netErr    net.Error
	)
	const running = "check that the cluster runs and that the context is the right one: `kubectl cluster-info`"
	switch {
	case errors.Is(err, context.Canceled):
		return "", "" // our own doing
	case errors.As(err, &dns):
		return fmt.Sprintf("the name %s cannot be resolved", dns.Name), "check the network and the VPN, and that the context is the right one: `kubectl cluster-info`"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused", running
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "no route to it", "check the network and the VPN"
	case errors.As(err, &authority):
		return "its certificate is signed by an unknown authority",
			"the kubeconfig belongs to another (perhaps an earlier) cluster, or something on the way terminates TLS; fetch the kubeconfig anew, or give --certificate-authority"
	case errors.As(err, &hostname):
		return "its certificate is for another name: " + hostname.Error(), "check the server's URL, or give --tls-server-name"
	case errors.As(err, &invalid):
		return "its certificate is not valid: " + invalid.Error(), "check this machine's clock; otherwise the cluster's certificate must be renewed"
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return "it does not speak TLS", "check the server's URL (https:// and port)"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection broke", running
	case errors.As(err, &netErr) && netErr.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "no answer in time", "check the network, the VPN and firewalls; --request-timeout sets how long one call may take"
	case errors.As(err, &request):
		return innermost(err), running
	}
	return "", ""
}

// innermost is the text of the error at the bottom of the chain.
func innermost(err error) string {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err.Error()
		}
		err = next
	}
}
