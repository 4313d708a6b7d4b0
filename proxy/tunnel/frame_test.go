package tunnel

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/mem"
)

func frameOf(k kind, offset uint64, body []byte) []byte {
	b := make([]byte, frameHeader, frameHeader+len(body))
	putHeader(b, k, offset)
	return append(b, body...)
}

var (
	v4 = netip.MustParseAddrPort("10.244.0.7:8080")
	v6 = netip.MustParseAddrPort("[fd00::7]:443")
)

// The bytes of SPEC.md, so that a change of them is noticed.
func TestFrameBytes(t *testing.T) {
	tests := []struct {
		name string
		got  []byte
		want string
	}{
		{"header", frameOf(kindData, 0x0102030405060708, []byte("x")), "\x08\x01\x02\x03\x04\x05\x06\x07\x08x"},
		{"open", openBody{stream: 5, network: networkTCP, address: v4}.append(nil), "\x00\x00\x00\x00\x00\x00\x00\x05\x01\x04\x0a\xf4\x00\x07\x1f\x90"},
		{
			"opened", openedBody{local: v4, remote: v6}.append(nil),
			"\x04\x0a\xf4\x00\x07\x1f\x90\x10\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07\x01\xbb",
		},
		{"park", parkBody{stream: 1 << 32}.append(nil), "\x00\x00\x00\x01\x00\x00\x00\x00"},
		{
			"arrived", arrivedBody{network: networkTCP, local: v4, remote: v4, waiting: 3}.append(nil),
			"\x01\x04\x0a\xf4\x00\x07\x1f\x90\x04\x0a\xf4\x00\x07\x1f\x90\x00\x00\x00\x03",
		},
		{"open a flow", openBody{stream: 5, network: networkUDP, address: v4}.append(nil), "\x00\x00\x00\x00\x00\x00\x00\x05\x02\x04\x0a\xf4\x00\x07\x1f\x90"},
		{"open files", openBody{stream: 5, network: networkFiles, address: noAddress()}.append(nil), "\x00\x00\x00\x00\x00\x00\x00\x05\x03\x04\x00\x00\x00\x00\x00\x00"},
		{"failure", failureBody{code: codeRefused, text: "no"}.append(nil), "\x01no"},
	}
	for _, tt := range tests {
		if string(tt.got) != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, tt.got, tt.want)
		}
	}
}

func TestParseHeaderRejects(t *testing.T) {
	tests := []struct {
		name  string
		frame []byte
		want  error
	}{
		{"empty", nil, errFrameShort},
		{"short", frameOf(kindData, 0, nil)[:8], errFrameShort},
		{"kind 0", frameOf(0, 0, []byte("x")), errFrameKind},
		{"kind 12", frameOf(12, 0, []byte("x")), errFrameKind},
		{"fin with a body", frameOf(kindFin, 0, []byte("x")), errFrameTrailing},
		{"too long", frameOf(kindData, 0, make([]byte, maxBody+1)), errFrameLong},
	}
	for _, tt := range tests {
		if err := (codec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer(tt.frame)}, &inFrame{}); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestParseBodyRejects(t *testing.T) {
	open := openBody{stream: 1, network: networkTCP, address: v4}.append(nil)
	mapped := append(open[:9:9], append([]byte{16}, append(make([]byte, 10), 0xff, 0xff, 10, 0, 0, 1, 0, 80)...)...)
	tests := []struct {
		name string
		body []byte
		want error
	}{
		{"cut short", open[:len(open)-1], errFrameShort},
		{"too long", append(bytes.Clone(open), 0), errFrameTrailing},
		{"address of 5 bytes", append(open[:9:9], 5, 1, 2, 3, 4, 5, 0, 80), errFrameAddress},
		{"IPv4 in 16 bytes", mapped, errFrameAddress},
		{"network 0", append(append(open[:8:8], 0), open[9:]...), errFrameNetwork},
		{"network 9", append(append(open[:8:8], 9), open[9:]...), errFrameNetwork},
	}
	for _, tt := range tests {
		if _, err := parseOpen(tt.body); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
	if _, err := parseFailure(kindFailed, make([]byte, maxText+2)); !errors.Is(err, errFrameText) {
		t.Errorf("overlong text: %v", err)
	}
	if got := (failureBody{text: strings.Repeat("x", 2*maxText)}).append(nil); len(got) != 1+maxText {
		t.Errorf("text is not cut: %d bytes", len(got))
	}
}

func TestCounter(t *testing.T) {
	var c counter
	steps := []struct {
		kind   kind
		offset uint64
		length int
		ok     bool
	}{
		{kindOpened, 0, 14, true},
		{kindData, 0, 100, true},
		{kindData, 0, 100, false},  // doubled
		{kindData, 150, 10, false}, // one lost
		{kindData, 100, 10, true},
		{kindFin, 100, 0, false},
		{kindFin, 110, 0, true},
	}
	for i, s := range steps {
		if err := c.take(s.kind, s.offset, s.length); (err == nil) != s.ok {
			t.Errorf("step %d: %v", i, err)
		}
	}
}

func TestCodes(t *testing.T) {
	for c, errno := range errnos() {
		if got := codeOf(errno); got != code(c) {
			t.Errorf("%v: code %d, want %d", errno, got, c)
		}
		if got := code(c).errno(); got != errno {
			t.Errorf("code %d: %v, want %v", c, got, errno)
		}
	}
	if got := code(200).errno(); got != syscall.EIO {
		t.Errorf("a later version's code: %v", got)
	}
	if got := codeOf(syscall.EMFILE); got != codeNoBuffers {
		t.Errorf("EMFILE: code %d", got)
	}
}

// What a frame decodes to encodes to the same frame; nothing panics.
func FuzzFrame(f *testing.F) {
	f.Add(frameOf(kindOpen, 0, openBody{stream: 5, network: networkTCP, address: v4}.append(nil)))
	f.Add(frameOf(kindOpened, 0, openedBody{local: v4, remote: v6}.append(nil)))
	f.Add(frameOf(kindPark, 0, parkBody{stream: 9}.append(nil)))
	f.Add(frameOf(kindArrived, 0, arrivedBody{network: networkTCP, local: v6, remote: v4, waiting: 7}.append(nil)))
	f.Add(frameOf(kindReset, 77, failureBody{code: codeReset, text: "reset"}.append(nil)))
	f.Add(frameOf(kindData, 1<<40, []byte("payload")))
	f.Add(frameOf(kindFin, 12, nil))
	f.Add(frameOf(kindOpen, 0, openBody{stream: 5, network: networkUDP, address: v6}.append(nil)))
	f.Add(frameOf(kindOpen, 0, openBody{stream: 6, network: networkFiles, address: noAddress()}.append(nil)))
	f.Add(frameOf(kindArrived, 0, arrivedBody{network: networkUDP, local: v4, remote: v4}.append(nil)))
	f.Add(frameOf(kindData, 12, nil)) // an empty datagram
	f.Fuzz(func(t *testing.T, raw []byte) {
		// In pieces, as HTTP/2 delivers it.
		var pieces mem.BufferSlice
		for rest := raw; len(rest) > 0; {
			n := min(len(rest), 5)
			pieces, rest = append(pieces, mem.SliceBuffer(rest[:n])), rest[n:]
		}
		var m inFrame
		if (codec{}).Unmarshal(pieces, &m) != nil {
			return
		}
		k, offset, body := m.kind, m.offset, m.bytes()
		again, err := reencode(k, body)
		if err != nil {
			return
		}
		if got := frameOf(k, offset, again); !bytes.Equal(got, raw) {
			t.Errorf("%s: %q encodes to %q", k, raw, got)
		}
	})
}

func reencode(k kind, body []byte) ([]byte, error) {
	switch k {
	case kindOpen:
		o, err := parseOpen(body)
		return appended(o, err)
	case kindOpened:
		o, err := parseOpened(body)
		return appended(o, err)
	case kindPark:
		p, err := parsePark(body)
		return appended(p, err)
	case kindArrived:
		a, err := parseArrived(body)
		return appended(a, err)
	case kindFailed, kindRefused, kindReset:
		f, err := parseFailure(k, body)
		return appended(f, err)
	}
	return body, nil
}

func appended(b interface{ append([]byte) []byte }, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return b.append(nil), nil
}

func TestKindNames(t *testing.T) {
	seen := map[string]bool{}
	for k := kindOpen; k <= kindReset; k++ {
		seen[k.String()] = true
	}
	if len(seen) != int(kindReset) || seen[""] {
		t.Errorf("names: %v", seen)
	}
}
