package agentimage

import (
	"context"
	"fmt"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// PushOptions say how a registry is spoken to.
type PushOptions struct {
	// Insecure allows HTTP, and certificates that cannot be checked.
	Insecure bool
	// UserAgent names the program to the registry.
	UserAgent string
	// Keychain has the credentials. Nil: those of Docker's configuration and its helpers.
	Keychain authn.Keychain
}

// Push puts the image for all platforms into a registry as ref, and returns its name by digest. ctx bounds it.
func (a Agents) Push(ctx context.Context, ref string, o PushOptions) (digest string, err error) {
	var parsing []name.Option
	if o.Insecure {
		parsing = append(parsing, name.Insecure)
	}
	tag, err := name.ParseReference(ref, parsing...)
	if err != nil {
		return "", fmt.Errorf("the image's name: %w", err)
	}
	index, err := a.Index()
	if err != nil {
		return "", err
	}
	keys := o.Keychain
	if keys == nil {
		keys = authn.DefaultKeychain
	}
	err = remote.WriteIndex(tag, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(keys), remote.WithUserAgent(o.UserAgent))
	if err != nil {
		return "", fmt.Errorf("push %s: %w", tag.Name(), err)
	}
	sum, err := index.Digest()
	if err != nil {
		return "", fmt.Errorf("push %s: %w", tag.Name(), err)
	}
	return tag.Context().Digest(sum.String()).Name(), nil
}
