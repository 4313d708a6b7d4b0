package kube

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/net/http/httpproxy"
	"k8s.io/apimachinery/pkg/runtime"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // registers the oidc provider that kubectl has too
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// loaded is what a kubeconfig and the flags come to.
type loaded struct {
	config    *rest.Config
	namespace string
	context   string
	user      string
}

// load reads the kubeconfig as kubectl would and lays the flags over it.
func (c Connection) load() (*loaded, error) {
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: c.Kubeconfig, Precedence: c.KubeconfigList}
	client := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, c.overrides())
	raw, err := client.RawConfig()
	if err != nil {
		return nil, c.loadError(err)
	}
	if err := c.checkNames(raw); err != nil {
		return nil, err
	}
	config, err := client.ClientConfig()
	if err != nil {
		return nil, c.configError(err, raw)
	}
	namespace, _, err := client.Namespace()
	if err != nil {
		return nil, c.configError(err, raw)
	}
	l := &loaded{config: config, namespace: namespace, context: raw.CurrentContext, user: c.User}
	if c.Context != "" {
		l.context = c.Context
	}
	if context := raw.Contexts[l.context]; context != nil && l.user == "" {
		l.user = context.AuthInfo
	}
	return l, nil
}

func (c Connection) overrides() *clientcmd.ConfigOverrides {
	o := &clientcmd.ConfigOverrides{
		CurrentContext: c.Context,
		Context:        clientcmdapi.Context{Cluster: c.Cluster, AuthInfo: c.User, Namespace: c.Namespace},
		ClusterInfo: clientcmdapi.Cluster{
			Server:                c.Server,
			TLSServerName:         c.TLSServerName,
			InsecureSkipTLSVerify: c.InsecureSkipTLSVerify,
			CertificateAuthority:  c.CertificateAuthority,
			DisableCompression:    c.DisableCompression,
		},
		AuthInfo: clientcmdapi.AuthInfo{
			ClientCertificate: c.ClientCertificate,
			ClientKey:         c.ClientKey,
			Token:             c.Token,
			Username:          c.Username,
			Password:          c.Password,
			Impersonate:       c.As,
			ImpersonateUID:    c.AsUID,
			ImpersonateGroups: c.AsGroups,
		},
		Timeout: c.RequestTimeout,
	}
	for _, extra := range c.AsUserExtra {
		if key, value, found := strings.Cut(extra, "="); found {
			if o.AuthInfo.ImpersonateUserExtra == nil {
				o.AuthInfo.ImpersonateUserExtra = make(map[string][]string)
			}
			o.AuthInfo.ImpersonateUserExtra[key] = append(o.AuthInfo.ImpersonateUserExtra[key], value)
		}
	}
	return o
}

// checkNames finds names that the kubeconfig has not got, and says which come near.
func (c Connection) checkNames(raw clientcmdapi.Config) error {
	contexts := slices.Sorted(maps.Keys(raw.Contexts))
	missing := func(what, name string, have []string) error {
		return &NotFoundError{
			What: what, Name: name, Near: nearest(name, have), Names: few(have),
			Hint: "the kubeconfig is " + c.files() + "; `kubectl config get-contexts` lists what it has",
		}
	}
	switch {
	case c.Context != "" && raw.Contexts[c.Context] == nil:
		return missing("context", c.Context, contexts)
	case c.Cluster != "" && raw.Clusters[c.Cluster] == nil:
		return missing("cluster", c.Cluster, slices.Sorted(maps.Keys(raw.Clusters)))
	case c.User != "" && raw.AuthInfos[c.User] == nil:
		return missing("user", c.User, slices.Sorted(maps.Keys(raw.AuthInfos)))
	case c.Context == "" && c.Cluster == "" && c.Server == "" && raw.CurrentContext == "" && len(contexts) > 0:
		return &NoClusterError{
			Reason: "the kubeconfig " + c.files() + " has no current context",
			Hint:   "name one with --context, or choose it with `kubectl config use-context NAME`; there is " + orList(contexts),
		}
	case c.Context == "" && c.Cluster == "" && c.Server == "" && raw.CurrentContext != "" && raw.Contexts[raw.CurrentContext] == nil:
		return &NoClusterError{
			Reason: fmt.Sprintf("the current context %q of the kubeconfig %s does not exist", raw.CurrentContext, c.files()),
			Hint:   "name one with --context, or choose it with `kubectl config use-context NAME`; there is " + orList(contexts),
		}
	}
	return nil
}

func (c Connection) files() string {
	if c.Kubeconfig != "" {
		return c.Kubeconfig
	}
	return strings.Join(c.KubeconfigList, string(filepath.ListSeparator))
}

func (c Connection) loadError(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return &NoClusterError{
			Reason: "the kubeconfig " + c.files() + " does not exist",
			Hint:   "name another with --kubeconfig or $KUBECONFIG", Err: err,
		}
	}
	return &NoClusterError{
		Reason: "the kubeconfig cannot be read: " + err.Error(),
		Hint:   "check it with `kubectl config view`, or name another with --kubeconfig or $KUBECONFIG", Err: err,
	}
}

func (c Connection) configError(err error, raw clientcmdapi.Config) error {
	if clientcmd.IsEmptyConfig(err) && len(raw.Contexts) == 0 {
		where := c.files()
		if where == "" {
			where = "neither --kubeconfig nor $KUBECONFIG nor a home directory is given"
		}
		return &NoClusterError{
			Reason: "there is no kubeconfig, or it is empty (" + where + ")",
			Hint:   "name one with --kubeconfig or $KUBECONFIG, or make one with your cluster's tool (kind, minikube, gcloud, aws, …)", Err: err,
		}
	}
	return &NoClusterError{
		Reason: "the kubeconfig " + c.files() + " is not usable: " + err.Error(),
		Hint:   "check it with `kubectl config view`", Err: err,
	}
}

// settle makes a loaded configuration fit for the daemon: no throttling of our own,
// no terminal for credential plugins, the CLI's environment instead of the daemon's.
func (c Connection) settle(config *rest.Config, cfg Config) {
	config.QPS = -1
	config.UserAgent = "teleswap/" + cfg.Version
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	config.WarningHandler = warnings{cfg.Logger}
	// The HTTP client's timeout would end watches; each call has its own.
	config.Timeout = 0
	if config.Proxy == nil {
		config.Proxy = c.proxy()
	}
	if config.ExecProvider == nil {
		return
	}
	plugin := config.ExecProvider
	plugin.InteractiveMode = clientcmdapi.NeverExecInteractiveMode
	plugin.StdinUnavailable = true
	env := make([]clientcmdapi.ExecEnvVar, 0, len(c.Environ)+len(plugin.Env))
	for _, entry := range c.Environ {
		if name, value, found := strings.Cut(entry, "="); found && name != "" {
			env = append(env, clientcmdapi.ExecEnvVar{Name: name, Value: value})
		}
	}
	plugin.Env = append(env, plugin.Env...)
	plugin.Command = findProgram(plugin.Command, lookup(c.Environ, "PATH"))
}

// proxy obeys HTTPS_PROXY and kin of the CLI's environment, not the daemon's.
func (c Connection) proxy() func(*http.Request) (*url.URL, error) {
	first := func(names ...string) string {
		for _, name := range names {
			if value := lookup(c.Environ, name); value != "" {
				return value
			}
		}
		return ""
	}
	proxies := httpproxy.Config{
		HTTPProxy:  first("HTTP_PROXY", "http_proxy"),
		HTTPSProxy: first("HTTPS_PROXY", "https_proxy"),
		NoProxy:    first("NO_PROXY", "no_proxy"),
	}
	choose := proxies.ProxyFunc()
	return func(r *http.Request) (*url.URL, error) { return choose(r.URL) }
}

// findProgram looks a bare name up in a PATH that is not this process's. What it does
// not find it leaves as it is, so that the error names it.
func findProgram(name, path string) string {
	if strings.ContainsRune(name, filepath.Separator) {
		return name
	}
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); filepath.IsAbs(dir) && err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file
		}
	}
	return name
}
