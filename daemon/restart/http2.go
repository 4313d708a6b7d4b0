package restart

import (
	"encoding/binary"
	"math"
	"strings"
)

// What of HTTP/2 is read here (RFC 9113): where frames begin, and which streams are open. Their heads stay packed.
const (
	preface     = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" // section 3.4
	frameHead   = 9                                  // bytes, section 4.1
	maxStreamID = math.MaxInt32

	frameData, frameHeaders, frameReset, frameSettings, frameGoAway = 0x0, 0x1, 0x3, 0x4, 0x7 // section 6
	flagEndStream, flagEndHeaders                                   = 0x1, 0x4
	frameContinuation                                               = 0x9
)

// frame is what the head of one says.
type frame struct {
	kind, flags byte
	stream      uint32
}

// frames finds the frames of one way.
type frames struct {
	skip   int    // of what comes before the first
	head   []byte // of the next, as far as it has come
	left   int    // bytes of the present one
	headed bool   // more of a stream's head must follow, and nothing else may
}

// take goes through the frames that begin in p, and returns how much of p lies before the last place where a frame of another
// origin may be put in; -1: there is no such place.
func (f *frames) take(p []byte, begun func(frame)) int {
	place, all := -1, len(p)
	for {
		n := min(f.skip, len(p))
		f.skip, p = f.skip-n, p[n:]
		n = min(f.left, len(p))
		f.left, p = f.left-n, p[n:]
		if f.between() {
			place = all - len(p)
		}
		if len(p) == 0 {
			return place
		}
		n = min(frameHead-len(f.head), len(p))
		f.head, p = append(f.head, p[:n]...), p[n:]
		if len(f.head) < frameHead {
			return place
		}
		h := frame{kind: f.head[3], flags: f.head[4], stream: binary.BigEndian.Uint32(f.head[5:]) & maxStreamID}
		f.left, f.head = int(f.head[0])<<16|int(f.head[1])<<8|int(f.head[2]), f.head[:0]
		if h.kind == frameHeaders || h.kind == frameContinuation {
			f.headed = h.flags&flagEndHeaders == 0
		}
		begun(h)
	}
}

// between says that no frame is under way, nor a stream's head.
func (f *frames) between() bool { return f.skip == 0 && f.left == 0 && len(f.head) == 0 && !f.headed }

// streams follows the streams of an HTTP/2 connection.
type streams struct {
	sent, got frames          // the client's, the server's
	open      map[uint32]bool // those that are not answered in full; true: in part
	last      uint32          // the newest
}

func newStreams() *streams {
	return &streams{sent: frames{skip: len(preface)}, open: map[uint32]bool{}}
}

// request takes in what the client sends; false: that is no HTTP/2.
func (s *streams) request(p []byte) bool {
	if begun := len(preface) - s.sent.skip; !strings.HasPrefix(preface[begun:], string(p[:min(len(p), s.sent.skip)])) {
		return false
	}
	s.sent.take(p, func(f frame) {
		switch {
		case f.kind == frameHeaders && f.stream > s.last:
			s.last, s.open[f.stream] = f.stream, false
		case f.kind == frameReset:
			delete(s.open, f.stream)
		}
	})
	return true
}

// beginsHTTP2 says that a server's first bytes are HTTP/2's, if they came at once: it need not wait for the client's.
func beginsHTTP2(p []byte) bool {
	return len(p) >= frameHead && p[3] == frameSettings && binary.BigEndian.Uint32(p[5:]) == 0
}

// answer takes in what the client gets; see frames.take.
func (s *streams) answer(p []byte) int {
	return s.got.take(p, func(f frame) {
		if _, open := s.open[f.stream]; !open {
			return
		}
		switch ends := f.flags&flagEndStream != 0; {
		case f.kind == frameReset, ends && (f.kind == frameData || f.kind == frameHeaders):
			delete(s.open, f.stream)
		case f.kind == frameHeaders:
			s.open[f.stream] = true
		}
	})
}

// owed says whether a client waits for an answer, and whether all of those have begun.
func (s *streams) owed() (any, begun bool) {
	begun = true
	for _, b := range s.open {
		begun = begun && b
	}
	return len(s.open) > 0, begun
}

// goAway is the word that no stream after last is, or will be, served on this connection (section 6.8): the client opens another
// connection, and repeats there what it has asked on such a stream.
func goAway(last uint32) []byte {
	f := []byte{0, 0, 8, frameGoAway, 0, 0, 0, 0, 0}
	f = binary.BigEndian.AppendUint32(f, last)
	return binary.BigEndian.AppendUint32(f, 0) // NO_ERROR
}
