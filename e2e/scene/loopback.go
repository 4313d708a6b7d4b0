package scene

import (
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// ServeLoopbacks serves HTTP at one port of 127.0.0.1, the laptop's and the node's, until the test ends, and returns HOST:PORT. It is
// how both reach one registry under one name, by HTTP: nobody takes that for safe elsewhere. It needs the embedded cluster.
func (w *World) ServeLoopbacks(h http.Handler) string {
	w.T.Helper()
	w.needsNode()
	laptop, err := w.Lab.Laptop.net.listen("127.0.0.1:0")
	w.must(err, "listen on the laptop's loopback")
	address := laptop.Addr().String()
	node, err := netns{fmt.Sprintf("/proc/%d/ns/net", w.Lab.nodePID)}.listen(address)
	if err != nil {
		_ = laptop.Close()
	}
	w.must(err, "listen on the node's loopback")
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	var serving sync.WaitGroup
	for _, lis := range []net.Listener{laptop, node} {
		serving.Go(func() { _ = server.Serve(lis) }) // ends with Close
	}
	w.T.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
	})
	return address
}
