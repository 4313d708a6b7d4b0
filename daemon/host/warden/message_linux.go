package warden

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/teleswap/teleswap/daemon/internal/unixsock"
)

const (
	// maxMessage bounds a message in bytes: thousands of routes fit.
	maxMessage = 256 << 10
	maxFiles   = 4
)

// send sends one message on a socket that keeps their bounds (SOCK_SEQPACKET), with descriptors.
func send(c *net.UnixConn, v any, files ...*os.File) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(data) > maxMessage {
		return fmt.Errorf("a message of %d bytes is too long", len(data))
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, 0, len(files))
		for _, f := range files {
			fds = append(fds, int(f.Fd()))
		}
		rights = unix.UnixRights(fds...)
	}
	_, _, err = c.WriteMsgUnix(data, rights, nil)
	return err
}

// receive reads one message. io.EOF says that the other side has gone.
func receive(c *net.UnixConn, v any) ([]*os.File, error) {
	buf, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(maxFiles*4))
	n, oobn, flags, _, err := c.ReadMsgUnix(buf, oob)
	files, ferr := unixsock.Files(oob[:oobn], "warden")
	switch {
	case err == nil && n == 0, errors.Is(err, unix.ECONNRESET):
		err = io.EOF
	case err == nil && flags&unix.MSG_TRUNC != 0:
		err = errors.New("a message is too long")
	case err == nil && ferr != nil:
		err = ferr
	case err == nil:
		err = json.Unmarshal(buf[:n], v)
	}
	if err != nil {
		for _, f := range files {
			_ = f.Close()
		}
		return nil, err
	}
	return files, nil
}
