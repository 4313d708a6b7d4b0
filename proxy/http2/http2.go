// Package http2 follows an HTTP/2 connection (RFC 9113) whose bytes pass: which streams are open, and where a frame may be put in.
// What is in the frames stays packed. So whoever carries a connection can end it in the server's place without losing a request, as
// a server does that shuts down.
package http2

import (
	"encoding/binary"
	"math"
	"strings"
)

// Preface is what a client begins with (section 3.4).
const Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// MaxStream is the highest number of a stream.
const MaxStream = math.MaxInt32

const (
	headSize = 9 // of a frame, section 4.1

	frameData, frameHeaders, frameReset, frameSettings, frameGoAway, frameContinuation = 0x0, 0x1, 0x3, 0x4, 0x7, 0x9 // section 6
	flagEndStream, flagEndHeaders                                                      = 0x1, 0x4
)

// frame is what the head of one says.
type frame struct {
	kind, flags byte
	stream      uint32
}

// frames finds the frames of one way.
type frames struct {
	head   [headSize]byte // of the next, as far as it has come
	have   int
	left   int  // bytes of the present one
	headed bool // more of a stream's head must follow, and nothing else may
}

// take goes through the frames that begin in p; see Streams.Answer for what it returns.
func (f *frames) take(p []byte, begun func(frame)) int {
	place, all := -1, len(p)
	for {
		n := min(f.left, len(p))
		f.left, p = f.left-n, p[n:]
		if f.between() {
			place = all - len(p)
		}
		if len(p) == 0 {
			return place
		}
		n = copy(f.head[f.have:], p)
		f.have, p = f.have+n, p[n:]
		if f.have < headSize {
			return place
		}
		h := frame{kind: f.head[3], flags: f.head[4], stream: binary.BigEndian.Uint32(f.head[5:]) & MaxStream}
		f.left, f.have = int(f.head[0])<<16|int(f.head[1])<<8|int(f.head[2]), 0
		if h.kind == frameHeaders || h.kind == frameContinuation {
			f.headed = h.flags&flagEndHeaders == 0
		}
		begun(h)
	}
}

// between says that no frame is under way, nor a stream's head.
func (f *frames) between() bool { return f.left == 0 && f.have == 0 && !f.headed }

// Streams follows one connection. Its zero value is ready; it is not safe for concurrent use. It keeps some 100 bytes, and a few
// more for each open stream.
type Streams struct {
	other     bool // something else is spoken
	prefaced  int  // bytes of the preface that have come
	sent, got frames
	began     bool            // the server has sent something
	open      map[uint32]bool // those that are not answered in full; true: in part
	last      uint32
}

// Request takes in what the client sends, before Answer takes in what answers it.
func (s *Streams) Request(p []byte) {
	if s.other {
		return
	}
	n := min(len(p), len(Preface)-s.prefaced)
	if !strings.HasPrefix(Preface[s.prefaced:], string(p[:n])) {
		*s = Streams{other: true}
		return
	}
	s.prefaced += n
	s.sent.take(p[n:], func(f frame) {
		switch {
		case f.kind == frameHeaders && f.stream > s.last:
			if s.open == nil {
				s.open = map[uint32]bool{}
			}
			s.last, s.open[f.stream] = f.stream, false
		case f.kind == frameReset:
			delete(s.open, f.stream)
		}
	})
}

// Answer takes in what the client gets. It returns how much of p lies before the last place where a frame of another origin may be
// put in; -1: there is none.
func (s *Streams) Answer(p []byte) int {
	if s.other {
		return -1
	}
	// The first frame is one of settings. A server need not wait for the client's first bytes; then it must be seen at once.
	if !s.began && (len(p) < headSize && !s.Spoken() || len(p) > 3 && p[3] != frameSettings) {
		*s = Streams{other: true}
		return -1
	}
	s.began = true
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

// Spoken says that the connection is one of HTTP/2; before its first bytes it is false.
func (s *Streams) Spoken() bool { return s.prefaced == len(Preface) }

// May says whether a frame of another origin may be sent to the client now.
func (s *Streams) May() bool { return s.Spoken() && s.began && s.got.between() }

// Owed says whether a client waits for an answer, and whether all of those have begun.
func (s *Streams) Owed() (any, begun bool) {
	begun = true
	for _, b := range s.open {
		begun = begun && b
	}
	return len(s.open) > 0, begun
}

// Last is the newest stream that the client has opened; 0: none.
func (s *Streams) Last() uint32 { return s.last }

// GoAway is the frame that says that no stream after last is, or will be, served on this connection (section 6.8): the client opens
// another connection, and repeats there what it has asked on such a stream. Who shuts down says so of MaxStream first, and of the
// last that has come when the client can have heard that.
func GoAway(last uint32) []byte {
	f := []byte{0, 0, 8, frameGoAway, 0, 0, 0, 0, 0}
	f = binary.BigEndian.AppendUint32(f, last)
	return binary.BigEndian.AppendUint32(f, 0) // NO_ERROR
}
