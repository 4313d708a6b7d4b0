package link

import (
	"io"
	"net"
	"testing"
)

// BenchmarkCounted is what the counters cost a connection of the kernel's, in writes as long as gRPC's.
func BenchmarkCounted(b *testing.B) {
	for _, c := range []struct {
		name string
		wrap func(net.Conn) net.Conn
	}{
		{"plain", func(c net.Conn) net.Conn { return c }},
		{"counted", func(c net.Conn) net.Conn { return &counted{Conn: c, link: &Link{}} }},
	} {
		b.Run(c.name, func(b *testing.B) {
			lis, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = lis.Close() }()
			drained := make(chan error, 1)
			go func() {
				far, err := lis.Accept()
				if err == nil {
					_, err = io.Copy(io.Discard, struct{ io.Reader }{c.wrap(far)})
				}
				drained <- err
			}()
			near, err := net.Dial("tcp", lis.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			w, buf := c.wrap(near), make([]byte, 64<<10)
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				if _, err := w.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
			_ = near.Close()
			if err := <-drained; err != nil {
				b.Fatal(err)
			}
		})
	}
}
