package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

type mode byte

const (
	modeEcho   mode = 'e'
	modeSource mode = 's'
	modeSink   mode = 'k'
	modeName   mode = 'n'
)

const (
	headerSize = 8
	// chunkSize is large enough that system calls do not weigh on plain TCP.
	chunkSize = 64 << 10
	chunkMore = 1
	chunkLast = 0
	goByte    = 'g'
	// maxDuration bounds what a client may ask a source to do.
	maxDuration = 10 * time.Minute
)

var errHeader = errors.New("not a header of the bench protocol")

type header struct {
	mode     mode
	duration time.Duration // whole milliseconds
}

func (h header) encode() []byte {
	b := []byte{'T', 'B', byte(h.mode), 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(b[4:], uint32(h.duration.Milliseconds()))
	return b
}

// decodeHeader reads the header in b, which must have headerSize bytes.
// It returns an error that wraps errHeader for anything else than a header.
func decodeHeader(b []byte) (header, error) {
	if len(b) != headerSize || b[0] != 'T' || b[1] != 'B' || b[3] != 0 {
		return header{}, fmt.Errorf("decode % x: %w", b, errHeader)
	}
	h := header{
		mode:     mode(b[2]),
		duration: time.Duration(binary.BigEndian.Uint32(b[4:])) * time.Millisecond,
	}
	switch h.mode {
	case modeEcho, modeSource, modeSink, modeName:
	default:
		return header{}, fmt.Errorf("decode mode %q: %w", b[2], errHeader)
	}
	if h.duration > maxDuration {
		return header{}, fmt.Errorf("decode duration %v: longer than %v: %w", h.duration, maxDuration, errHeader)
	}
	return h, nil
}

// sendChunks writes chunks to w until the duration is over, marks the last
// one, and returns the bytes written.
func sendChunks(w io.Writer, d time.Duration) (int64, error) {
	chunk := make([]byte, chunkSize)
	chunk[0] = chunkMore
	end := time.Now().Add(d)
	var sent int64
	for {
		last := !time.Now().Before(end)
		if last {
			chunk[0] = chunkLast
		}
		n, err := w.Write(chunk)
		sent += int64(n)
		if err != nil {
			return sent, fmt.Errorf("send chunk after %d bytes: %w", sent, err)
		}
		if last {
			return sent, nil
		}
	}
}

// receiveChunks reads chunks up to and with the marked one, and returns the
// bytes read.
func receiveChunks(r io.Reader) (int64, error) {
	chunk := make([]byte, chunkSize)
	var got int64
	for {
		n, err := io.ReadFull(r, chunk)
		got += int64(n)
		if err != nil {
			return got, fmt.Errorf("receive chunk after %d bytes: %w", got, err)
		}
		switch chunk[0] {
		case chunkMore:
		case chunkLast:
			return got, nil
		default:
			return got, fmt.Errorf("receive chunk after %d bytes: first byte is %#x, bytes were lost or mixed up", got, chunk[0])
		}
	}
}
