package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/teleswap/teleswap/proxy/tunnel"
)

// keyStore keeps session keys in the runtime directory, which is 0700 and, where the
// system has one, in memory: the keys end with the machine, unlike the ledger.
type keyStore struct{ dir string }

func (k keyStore) path(session string) string {
	return filepath.Join(k.dir, "keys-"+filepath.Base(session)+".json")
}

// Save implements session.KeyStore.
func (k keyStore) Save(session string, keys *tunnel.Keys) error {
	data, err := json.Marshal(keys)
	if err != nil {
		return fmt.Errorf("encode the keys of session %s: %w", session, err)
	}
	return os.WriteFile(k.path(session), data, 0o600)
}

// Load implements session.KeyStore.
func (k keyStore) Load(session string) (*tunnel.Keys, error) {
	data, err := os.ReadFile(k.path(session))
	if err != nil {
		return nil, err
	}
	keys := new(tunnel.Keys)
	if err := json.Unmarshal(data, keys); err != nil {
		return nil, fmt.Errorf("read the keys of session %s: damaged", session) // the text would quote them
	}
	return keys, nil
}

// Forget implements session.KeyStore.
func (k keyStore) Forget(session string) error {
	if err := os.Remove(k.path(session)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
