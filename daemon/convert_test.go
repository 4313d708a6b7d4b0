package daemon

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/teleswap/teleswap/daemon/api"
	"github.com/teleswap/teleswap/daemon/session"
)

func TestPublishOverTheWire(t *testing.T) {
	all := []session.Publish{
		{At: netip.MustParseAddrPort("127.0.0.1:0"), Inside: 65535},
		{At: netip.MustParseAddrPort("[::1]:53"), Inside: 5353, UDP: true},
	}
	if got, err := publishFrom(publishedOf(all)); err != nil || !slices.Equal(got, all) {
		t.Errorf("got %v, %v, want %v", got, err, all)
	}
	for _, bad := range []*api.Publish{
		{Address: "", Port: 80, Inside: 80}, {Address: "127.0.0.1", Port: 65536, Inside: 80}, {Address: "127.0.0.1", Port: 80, Inside: 70000},
	} {
		if got, err := publishFrom([]*api.Publish{bad}); err == nil {
			t.Errorf("%v is taken for %v", bad, got)
		}
	}
}
