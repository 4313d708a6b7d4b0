package kube

import (
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/cli-runtime/pkg/genericclioptions"
)

// Connection is how to reach a cluster: every kubectl connection flag and what of
// the CLI's environment matters to it, as data that the CLI hands to the daemon.
// File names are absolute, because the daemon has another working directory.
type Connection struct {
	Kubeconfig            string   `json:"kubeconfig,omitempty"`     // --kubeconfig: must exist
	KubeconfigList        []string `json:"kubeconfigList,omitempty"` // $KUBECONFIG or ~/.kube/config: those that exist are merged
	Context               string   `json:"context,omitempty"`
	Cluster               string   `json:"cluster,omitempty"`
	User                  string   `json:"user,omitempty"`
	Namespace             string   `json:"namespace,omitempty"`
	Server                string   `json:"server,omitempty"`
	TLSServerName         string   `json:"tlsServerName,omitempty"`
	InsecureSkipTLSVerify bool     `json:"insecureSkipTLSVerify,omitempty"`
	CertificateAuthority  string   `json:"certificateAuthority,omitempty"`
	ClientCertificate     string   `json:"clientCertificate,omitempty"`
	ClientKey             string   `json:"clientKey,omitempty"`
	Token                 string   `json:"token,omitempty"`
	Username              string   `json:"username,omitempty"`
	Password              string   `json:"password,omitempty"`
	As                    string   `json:"as,omitempty"`
	AsUID                 string   `json:"asUID,omitempty"`
	AsGroups              []string `json:"asGroups,omitempty"`
	AsUserExtra           []string `json:"asUserExtra,omitempty"` // "key=value" each
	RequestTimeout        string   `json:"requestTimeout,omitempty"`
	DisableCompression    bool     `json:"disableCompression,omitempty"`
	// Environ is the CLI's environment ("KEY=VALUE" each): for credential plugins and
	// for the proxy variables (HTTPS_PROXY and kin).
	Environ []string `json:"environ,omitempty"`
}

// FromFlags copies kubectl's connection flags. environ is the CLI's environment and
// cwd its working directory, against which relative file names are made absolute.
func FromFlags(f *genericclioptions.ConfigFlags, environ []string, cwd string) Connection {
	abs := func(name string) string {
		if name == "" || filepath.IsAbs(name) {
			return name
		}
		return filepath.Join(cwd, name)
	}
	c := Connection{
		Kubeconfig:            abs(deref(f.KubeConfig)),
		Context:               deref(f.Context),
		Cluster:               deref(f.ClusterName),
		User:                  deref(f.AuthInfoName),
		Namespace:             deref(f.Namespace),
		Server:                deref(f.APIServer),
		TLSServerName:         deref(f.TLSServerName),
		InsecureSkipTLSVerify: deref(f.Insecure),
		CertificateAuthority:  abs(deref(f.CAFile)),
		ClientCertificate:     abs(deref(f.CertFile)),
		ClientKey:             abs(deref(f.KeyFile)),
		Token:                 deref(f.BearerToken),
		Username:              deref(f.Username),
		Password:              deref(f.Password),
		As:                    deref(f.Impersonate),
		AsUID:                 deref(f.ImpersonateUID),
		AsGroups:              slices.Clone(deref(f.ImpersonateGroup)),
		AsUserExtra:           slices.Clone(deref(f.ImpersonateUserExtra)),
		RequestTimeout:        deref(f.Timeout),
		DisableCompression:    deref(f.DisableCompression),
		Environ:               slices.Clone(environ),
	}
	if c.RequestTimeout == "0" {
		c.RequestTimeout = "" // the flag's default
	}
	if c.Kubeconfig != "" {
		return c
	}
	list := filepath.SplitList(lookup(environ, "KUBECONFIG"))
	for _, name := range list {
		if name != "" {
			c.KubeconfigList = append(c.KubeconfigList, abs(name))
		}
	}
	if home := lookup(environ, "HOME"); len(c.KubeconfigList) == 0 && home != "" {
		c.KubeconfigList = []string{abs(filepath.Join(home, ".kube", "config"))}
	}
	return c
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// lookup is os.Getenv for a list; as in a process, the last entry of a name counts.
func lookup(environ []string, name string) string {
	for _, entry := range slices.Backward(environ) {
		if key, value, found := strings.Cut(entry, "="); found && key == name {
			return value
		}
	}
	return ""
}

// lastingNames are the variables that Redacted keeps: where programs and their
// configuration are, never what a secret is.
var lastingNames = []string{
	"PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "KUBECONFIG", "KUBECACHEDIR",
	"AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE",
	"CLOUDSDK_CONFIG", "CLOUDSDK_ACTIVE_CONFIG_NAME", "CLOUDSDK_CORE_PROJECT", "USE_GKE_GCLOUD_AUTH_PLUGIN",
	"AZURE_CONFIG_DIR", "AAD_LOGIN_METHOD", "TSH_HOME", "TELEPORT_HOME",
	"NO_PROXY", "no_proxy",
}

var proxyNames = []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"}

// Redacted is the connection without secrets, fit to be written to disk: no token, no
// password, and of the environment only what names files, profiles and proxies.
func (c Connection) Redacted() Connection {
	c.Token, c.Password = "", ""
	var environ []string
	for _, entry := range c.Environ {
		name, value, _ := strings.Cut(entry, "=")
		switch {
		case slices.Contains(lastingNames, name), strings.HasPrefix(name, "XDG_"):
			environ = append(environ, entry)
		case slices.Contains(proxyNames, name):
			if u, err := url.Parse(value); err == nil && u.User == nil {
				environ = append(environ, entry)
			}
		}
	}
	c.Environ = environ
	return c
}

// String describes the connection without secrets.
func (c Connection) String() string {
	var parts []string
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, name+"="+value)
		}
	}
	add("kubeconfig", c.Kubeconfig)
	add("kubeconfig", strings.Join(c.KubeconfigList, string(filepath.ListSeparator)))
	add("context", c.Context)
	add("cluster", c.Cluster)
	add("user", c.User)
	add("namespace", c.Namespace)
	add("server", c.Server)
	add("as", c.As)
	if len(parts) == 0 {
		return "connection{}"
	}
	return fmt.Sprintf("connection{%s}", strings.Join(parts, " "))
}

// GoString keeps secrets out of %#v.
func (c Connection) GoString() string { return c.String() }
