package daemon

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestDestinations(t *testing.T) {
	lookup := func(_ context.Context, _, host string) ([]netip.Addr, error) {
		if host != "db.corp.example." {
			return nil, errors.New("no such host")
		}
		return []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("::ffff:10.1.2.4"), netip.MustParseAddr("fd00::1")}, nil
	}
	prefixes, names, err := destinations(t.Context(), "--also-proxy", []string{"10.5.0.0/16", "192.0.2.1", "db.corp.example."}, lookup)
	want := []netip.Prefix{
		netip.MustParsePrefix("10.5.0.0/16"), netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("10.1.2.3/32"),
		netip.MustParsePrefix("10.1.2.4/32"), netip.MustParsePrefix("fd00::1/128"),
	}
	if err != nil || !slices.Equal(prefixes, want) || !slices.Equal(names, []string{"db.corp.example"}) {
		t.Errorf("%v, %v, %v", prefixes, names, err)
	}
	if _, _, err := destinations(t.Context(), "--also-proxy", []string{"nowhere"}, lookup); err == nil || !strings.Contains(err.Error(), "--also-proxy nowhere") {
		t.Errorf("a name that is nowhere: %v", err)
	}
}

// TestReserved: the tunnel must not be led into itself.
func TestReserved(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "")
	got, err := reserved(t.Context(), "https://10.96.0.1:443")
	if err != nil || !slices.Equal(got, []netip.Prefix{netip.MustParsePrefix("10.96.0.1/32")}) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestWhoCanShareAMachine(t *testing.T) {
	one := wholeRequest{Connection: []byte(`{"a":1}`), Warden: "one", Never: []string{"10.0.0.0/8"}}
	same := wholeRequest{Connection: []byte(`{"a":2}`), Never: []string{"10.0.0.0/8"}}
	other := wholeRequest{Warden: "one", AllowConflicts: true}
	if one.key() != same.key() || one.key() == other.key() {
		t.Errorf("%s, %s, %s", one.key(), same.key(), other.key())
	}
	all := &wholes{}
	w := &whole{users: 2}
	all.current = w
	if all.leave(w) || all.current == nil {
		t.Error("it ended while somebody had it")
	}
	if !all.leave(w) || all.current != nil {
		t.Error("the last one did not end it")
	}
}
