package restart

import (
	"bufio"
	"errors"
	"io"
	"iter"
	"net/http"
	"slices"

	"github.com/teleswap/teleswap/proxy/http2"
)

// maxHead is how long the head of a message may be; what has a longer one is not followed.
const maxHead = 1 << 20

var errLongHead = errors.New("the head is too long")

// exchange follows the messages of one connection (HTTP/1.x, RFC 9112): it is told the bytes that pass, and tells whether one is
// under way. What is not HTTP/1.x, or becomes something else, is opaque from then on, unless it is HTTP/2, whose streams are
// followed. It is not safe for concurrent use; its zero value is ready, and end frees what it holds.
type exchange struct {
	http2             http2.Streams
	requests, answers *side
	waiting           []*http.Request // whose answers have not come in full
	opaque            bool
	last              bool // the connection ends with the answer that came, or comes
}

// side reads the messages that go one way, each time it is given bytes of them.
type side struct {
	chunk   []byte // given, and not taken yet
	next    func() (struct{}, bool)
	stop    func()
	want    func(struct{}) bool // lets next return; false: there will be no more
	err     error               // there is no more to read
	between bool                // no message has begun
	head    int                 // bytes since it has; below 0 they do not count any more
}

// newSide reads messages by read, one each time, until one is none.
func newSide(read func(*bufio.Reader, *side) error) *side {
	s := &side{}
	s.next, s.stop = iter.Pull(func(want func(struct{}) bool) {
		s.want = want
		for r := bufio.NewReader(s); ; {
			s.between, s.head = r.Buffered() == 0, 0
			if _, err := r.Peek(1); err != nil {
				return
			}
			s.between = false
			if read(r, s) != nil {
				return
			}
		}
	})
	s.next() // to where it wants its first bytes
	return s
}

// Read implements io.Reader, for the messages' reader. Its error is the same from then on.
func (s *side) Read(p []byte) (int, error) {
	for len(s.chunk) == 0 && s.err == nil {
		if !s.want(struct{}{}) {
			s.err = io.EOF
		}
	}
	if s.err != nil {
		return 0, s.err
	}
	n := copy(p, s.chunk)
	s.chunk = s.chunk[n:]
	if s.head >= 0 {
		if s.head += n; s.head > maxHead {
			s.err = errLongHead
		}
	}
	return n, nil
}

// take has the messages' reader take p in; false when they are no messages.
func (s *side) take(p []byte) bool {
	s.chunk = p
	_, goesOn := s.next()
	return goesOn
}

// request takes in what the client sends. It comes before answer takes in what answers it.
func (e *exchange) request(p []byte) {
	e.http2.Request(p)
	if e.opaque {
		return
	}
	if e.requests == nil {
		e.requests, e.answers = newSide(e.readRequest), newSide(e.readAnswer)
	}
	if !e.requests.take(p) {
		e.end()
	}
}

// answer takes in what the client gets. It returns how much of p lies before the last place where a frame of HTTP/2 may be put in;
// -1: there is none.
func (e *exchange) answer(p []byte) (place int) {
	place = e.http2.Answer(p)
	if !e.opaque && (e.requests == nil || !e.answers.take(p)) { // who speaks first is no server of HTTP/1.x
		e.end()
	}
	return place
}

var errNoHTTP1 = errors.New("not HTTP/1.x")

func (e *exchange) readRequest(r *bufio.Reader, s *side) error {
	if first, _ := r.Peek(1); first[0] < 'A' || first[0] > 'Z' { // or its end would be waited for
		return errNoHTTP1
	}
	req, err := http.ReadRequest(r)
	if err != nil {
		return err
	}
	if req.ProtoMajor != 1 || req.Method == http.MethodConnect {
		return errNoHTTP1
	}
	e.waiting = append(e.waiting, req)
	s.head = -1
	_, err = io.Copy(io.Discard, req.Body)
	return err
}

func (e *exchange) readAnswer(r *bufio.Reader, s *side) error {
	if len(e.waiting) == 0 {
		return errNoHTTP1
	}
	req := e.waiting[0]
	answer, err := http.ReadResponse(r, req)
	if err != nil {
		return err
	}
	switch {
	case answer.StatusCode == http.StatusSwitchingProtocols:
		return errNoHTTP1
	case answer.StatusCode < http.StatusOK: // more of it follows
		return nil
	}
	e.last = e.last || answer.Close || req.Close
	s.head = -1
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	e.waiting = e.waiting[1:]
	return nil
}

// idle says that all that was asked is answered, and nothing more has begun. It is false for what is opaque.
func (e *exchange) idle() bool {
	return !e.opaque && (e.requests == nil || len(e.waiting) == 0 && e.requests.between && e.answers.between)
}

// owed says whether a client waits for an answer, and whether all of those have begun.
func (e *exchange) owed() (any, begun bool) {
	if e.http2.Spoken() {
		return e.http2.Owed()
	}
	return !e.opaque && !e.idle(), e.answers != nil && !e.answers.between
}

// safe says that what is under way may be asked once more by somebody else than the client: it has begun to be asked only, or
// by a method that changes nothing (RFC 9110, sections 9.2.1 and 9.2.2).
func (e *exchange) safe() bool {
	if e.http2.Spoken() {
		return e.http2.Last() == 0
	}
	return !e.opaque && !slices.ContainsFunc(e.waiting, func(r *http.Request) bool {
		return !slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace}, r.Method)
	})
}

// end gives up following, and frees what did. It may be called again.
func (e *exchange) end() {
	e.opaque = true
	if e.requests != nil {
		e.requests.stop()
		e.answers.stop()
	}
	e.waiting = nil
}
