package stub

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// query is a message with one question, as a stub resolver sends it.
func query(id uint16, name string) []byte {
	b := binary.BigEndian.AppendUint16(nil, id)
	b = append(b, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 1)
	for label := range strings.SplitSeq(name, ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	b = append(b, 0, 0, 65, 0, 1)
	return append(b, 0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0) // EDNS
}

// change is a copy of a message with a byte set.
func change(msg []byte, at int, to byte) []byte {
	out := bytes.Clone(msg)
	out[at] = to
	return out
}

// reply is the response to a query, with some bytes to know it by.
func reply(q []byte, mark string) []byte {
	return append(change(q, 2, q[2]|responseBit), mark...)
}

// serve answers each query on one port with messages by UDP and by TCP, and returns its address.
func serve(t *testing.T, udp, tcp func(q []byte) [][]byte) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var loops sync.WaitGroup
	loops.Go(func() {
		buf := make([]byte, MaxSize)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			for _, a := range udp(bytes.Clone(buf[:n])) {
				_, _ = pc.WriteTo(a, from)
			}
		}
	})
	loops.Go(func() {
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			var size [2]byte
			_, err = io.ReadFull(c, size[:])
			q := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, qerr := io.ReadFull(c, q); err == nil && qerr == nil {
				for _, a := range tcp(q) {
					_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...))
				}
			}
			_ = c.Close()
		}
	})
	t.Cleanup(func() {
		_, _ = lis.Close(), pc.Close()
		loops.Wait()
	})
	return lis.Addr().String()
}

func TestAsk(t *testing.T) {
	const name = HeaderSize + 1
	q := query(7, "service-b.default.svc.cluster.local")
	last := name + len("service-b.default.svc.cluster.local") // the byte before type and class
	says := func(replies ...[]byte) func([]byte) [][]byte { return func([]byte) [][]byte { return replies } }
	right, silent := reply(q, "right"), says()
	cut := change(reply(q, "cut"), 2, q[2]|responseBit|truncatedBit)
	noQuestion := change(reply(q[:HeaderSize], ""), 5, 0)
	for _, c := range []struct {
		name     string
		udp, tcp func([]byte) [][]byte
		want     []byte
	}{
		{"by UDP", says(right), silent, right},
		{"cut, whole by TCP", says(cut), says(right), right},
		{"cut, and nothing by TCP", says(cut), silent, cut},
		{"cut, and another question's by TCP", says(cut), says(change(right, name, 'x')), cut},
		{"cut, and nonsense by TCP", says(cut), says([]byte{1, 2, 3}), cut},
		{"an error without the question", says(noQuestion), silent, noQuestion},
		{"the name in capitals", says(change(right, name, 'S')), silent, change(right, name, 'S')},
		{"another id first", says(change(right, 1, 8), right), silent, right},
		{"another question first", says(change(right, name, 'x'), right), silent, right},
		{"another byte that is no letter", says(change(right, name, 0x80|'s'), right), silent, right},
		{"another type first, as letters go the same", says(change(right, last+2, 'a'), right), silent, right},
		{"the question itself first", says(q, right), silent, right},
		{"less than a header first", says([]byte{0, 7, 0x80}, right), silent, right},
		{"half a question first", says(right[:name+3], right), silent, right},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Ask(t.Context(), serve(t, c.udp, c.tcp), q)
			if err != nil || !bytes.Equal(got, c.want) {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestAskFails(t *testing.T) {
	silent := func([]byte) [][]byte { return nil }
	server := serve(t, silent, silent)
	for _, size := range []int{0, HeaderSize - 1, MaxSize + 1} {
		if _, err := Ask(t.Context(), server, make([]byte, size)); !errors.Is(err, ErrSize) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if got, err := Ask(ctx, server, query(7, "example.com")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("silence: %q, %v", got, err)
	}
}

// Whatever arrives on the network or from a process, nothing panics.
func FuzzAnswers(f *testing.F) {
	q := query(7, "example.com")
	f.Add(reply(q, "x"), q)
	f.Add(q, q)
	f.Fuzz(func(t *testing.T, answer, msg []byte) {
		if len(msg) < HeaderSize {
			return
		}
		if answers(answer, msg) && (len(answer) < HeaderSize || answer[2]&responseBit == 0) {
			t.Errorf("%q answers %q", answer, msg)
		}
	})
}
