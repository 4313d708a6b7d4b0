package load

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

func FuzzDecodeHeader(f *testing.F) {
	for _, m := range []mode{modeEcho, modeSource, modeSink, modeName} {
		f.Add(header{mode: m, duration: time.Second}.encode())
	}
	f.Add([]byte("GET / HT"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHeader(b)
		if err != nil {
			if !errors.Is(err, errHeader) {
				t.Errorf("error %v does not wrap errHeader", err)
			}
			return
		}
		if !bytes.Equal(h.encode(), b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, h, h.encode())
		}
	})
}

func TestReceiveChunks(t *testing.T) {
	chunk := func(first byte) string { return string([]byte{first}) + strings.Repeat("\x00", chunkSize-1) }
	for _, tc := range []struct {
		name, in string
		want     int64
		wantErr  string
	}{
		{"one", chunk(chunkLast), chunkSize, ""},
		{"three, and bytes after", chunk(chunkMore) + chunk(chunkMore) + chunk(chunkLast) + "more", 3 * chunkSize, ""},
		{"cut off", chunk(chunkMore) + "\x01", chunkSize + 1, "unexpected EOF"},
		{"out of step", chunk(chunkMore) + chunk(7), 2 * chunkSize, "lost or mixed up"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := receiveChunks(strings.NewReader(tc.in))
			if got != tc.want {
				t.Errorf("got %d bytes, want %d", got, tc.want)
			}
			if (err == nil) != (tc.wantErr == "") || err != nil && !strings.Contains(err.Error(), tc.wantErr) {
				t.Errorf("got error %v, want %q", err, tc.wantErr)
			}
		})
	}
}
