package http2

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

func frameOf(kind, flags byte, stream byte, payload string) string {
	return string([]byte{0, 0, byte(len(payload)), kind, flags, 0, 0, 0, stream}) + payload
}

// TestStreams: which are open, and where a frame may be put in, however the bytes were cut.
func TestStreams(t *testing.T) {
	const settings, window = frameSettings, 0x8
	ask := func(stream byte) string { return frameOf(frameHeaders, flagEndHeaders|flagEndStream, stream, "head") }
	begin := func(stream byte) string { return frameOf(frameHeaders, flagEndHeaders, stream, "head") }
	end := func(stream byte) string { return frameOf(frameHeaders, flagEndHeaders|flagEndStream, stream, "end") }
	for name, c := range map[string]struct {
		sent, got  string
		open       []uint32
		begun, may bool
	}{
		"begun":             {Preface + frameOf(settings, 0, 0, ""), frameOf(settings, 0, 0, "123456"), nil, true, true},
		"asked":             {Preface + ask(1) + ask(3), frameOf(settings, 0, 0, ""), []uint32{1, 3}, false, true},
		"answering":         {Preface + ask(1), begin(1), []uint32{1}, true, true},
		"one of two begun":  {Preface + ask(1) + ask(3), begin(1), []uint32{1, 3}, false, true},
		"answered":          {Preface + ask(1), begin(1) + frameOf(frameData, 0, 1, "data") + end(1), nil, true, true},
		"answered by data":  {Preface + ask(1), begin(1) + frameOf(frameData, flagEndStream, 1, "data"), nil, true, true},
		"refused":           {Preface + ask(1), frameOf(frameReset, 0, 1, "1234"), nil, true, true},
		"given up":          {Preface + ask(1) + frameOf(frameReset, 0, 1, "1234"), "", nil, true, true},
		"windows":           {Preface + ask(1) + frameOf(window, flagEndStream, 1, "1234"), frameOf(window, flagEndStream, 1, "1234"), []uint32{1}, false, true},
		"amid a frame":      {Preface + ask(1), begin(1) + frameOf(frameData, 0, 1, "data")[:11], []uint32{1}, true, false},
		"amid a frame head": {Preface + ask(1), begin(1) + frameOf(frameData, 0, 1, "data")[:5], []uint32{1}, true, false},
		"amid a head":       {Preface + ask(1), frameOf(frameHeaders, 0, 1, "he"), []uint32{1}, true, false},
		"after a long head": {Preface + ask(1), frameOf(frameHeaders, 0, 1, "he") + frameOf(frameContinuation, flagEndHeaders, 1, "ad"), []uint32{1}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			for _, piece := range []int{1, 5, 1000} {
				var s Streams
				for b := range slices.Chunk([]byte(c.sent), piece) {
					s.Request(b)
				}
				may := false
				for b := range slices.Chunk([]byte(frameOf(frameSettings, 0, 0, "123456")+c.got), piece) {
					may = s.Answer(b) == len(b)
					if may != s.May() {
						t.Error("two answers to one question")
					}
				}
				open := slices.Sorted(maps.Keys(s.open))
				owed, begun := s.Owed()
				if !slices.Equal(open, c.open) || owed != (len(c.open) > 0) || begun != c.begun || may != c.may {
					t.Errorf("in pieces of %d: open %v, owed %t, begun %t, a place %t", piece, open, owed, begun, may)
				}
			}
		})
	}
}

// TestOtherProtocols are not taken for it.
func TestOtherProtocols(t *testing.T) {
	for _, c := range []struct{ sent, got string }{
		{"GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"},
		{"PRI * HTTP/1.1\r\n\r\n" + strings.Repeat("\x00", 30), frameOf(frameSettings, 0, 0, "")},
		{"\x16\x03\x01\x02\x00", "\x16\x03\x03"},
		{"", "220 hello\r\n"},
		{Preface, "HTTP/1.1 400 Bad Request\r\n\r\n"},
	} {
		var s Streams
		s.Request([]byte(c.sent))
		place := s.Answer([]byte(c.got))
		s.Request([]byte(Preface))
		if owed, _ := s.Owed(); owed || place >= 0 || s.May() {
			t.Errorf("%q, %q: %+v", c.sent, c.got, s)
		}
	}
}

// TestServerFirst: its settings need not wait for the client's.
func TestServerFirst(t *testing.T) {
	var s Streams
	if s.Answer([]byte(frameOf(frameSettings, 0, 0, ""))); s.May() || s.Spoken() {
		t.Error("taken for HTTP/2 before the client has spoken")
	}
	s.Request([]byte(Preface + frameOf(frameHeaders, flagEndHeaders|flagEndStream, 1, "head")))
	s.Answer([]byte(frameOf(frameSettings, 1, 0, "")))
	if owed, _ := s.Owed(); !owed || !s.May() || s.Last() != 1 {
		t.Errorf("%+v", s)
	}
}

// FuzzStreams: whatever passes, it neither fails nor grows.
func FuzzStreams(f *testing.F) {
	f.Add([]byte(Preface+frameOf(frameHeaders, 0, 1, "head")), []byte(frameOf(frameSettings, 0, 0, "")))
	f.Fuzz(func(t *testing.T, sent, got []byte) {
		var s Streams
		s.Request(sent)
		if place := s.Answer(got); place > len(got) || len(s.open) > len(sent) {
			t.Errorf("%d of %d, %d open", place, len(got), len(s.open))
		}
	})
}
