//go:build linux

package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"

	"github.com/teleswap/teleswap/e2e/cluster/policy"
)

// policyUser is who follows the policies; its keys are in files of that name.
const policyUser = "network-policy"

// EnforcePolicy is the body of PolicyArg: it keeps the node's rules as the NetworkPolicies
// at the API server args[0] say.
func EnforcePolicy(ctx context.Context, args []string, logger *slog.Logger) error {
	if len(args) != 1 {
		return errors.New("network policy: want the API server's URL")
	}
	pair, err := tls.LoadX509KeyPair(EtcDir+"/"+policyUser+".crt", EtcDir+"/"+policyUser+".key")
	if err != nil {
		return fmt.Errorf("network policy: %w", err)
	}
	ca, err := os.ReadFile(EtcDir + "/ca.crt")
	if err != nil {
		return fmt.Errorf("network policy: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return errors.New("network policy: the cluster's authority: no certificate in the file")
	}
	enforcer := policy.Enforcer{
		Server: args[0],
		Client: &http.Client{Transport: &http.Transport{
			TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS12},
		}},
		Logger: logger,
	}
	return enforcer.Run(ctx)
}
