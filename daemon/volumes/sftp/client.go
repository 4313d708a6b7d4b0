// Package sftp is a client of SFTP, version 3 (draft-ietf-secsh-filexfer-02) with OpenSSH's extensions. Its requests are
// sent in the order of their calls, none waits for the answer of another, and what is read goes straight to where it is
// wanted: so a file system can have as many under way as its line holds. It knows neither SSH nor what its caller does.
package sftp

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"sync"

	"github.com/teleswap/teleswap/proxy/sftpwire"
)

// ErrLost is the error of a request whose answer did not come, so that nobody knows what became of it.
var ErrLost = errors.New("the SFTP connection broke")

const (
	// longest bounds an answer, in bytes.
	longest = 1 << 20
	// shortData is how much every server reads or writes at once, longData what those do that tell their limits, as
	// OpenSSH's 255 KiB. Others may cut a longer answer, which would look like the file's end.
	shortData, longData = 32 << 10, 128 << 10
)

// StatusError is the server's refusal of a request. It is fs.ErrNotExist or fs.ErrPermission where the protocol has a code
// for it.
type StatusError struct {
	Code uint32
	Text string
}

func (e *StatusError) Error() string { return fmt.Sprintf("%s (SFTP status %d)", e.Text, e.Code) }

// Is implements errors.Is.
func (e *StatusError) Is(target error) bool {
	switch e.Code {
	case sftpwire.StatusNoSuchFile:
		return target == fs.ErrNotExist
	case sftpwire.StatusDenied:
		return target == fs.ErrPermission
	}
	return false
}

// Client is one connection. It is safe for concurrent use.
type Client struct {
	conn       net.Conn
	extensions map[string]string
	ended      chan struct{}

	sendMu sync.Mutex // also keeps the order of ids that of the packets
	packet []byte

	mu    sync.Mutex
	calls map[uint32]*Call // under way
	last  uint32
	err   error // why there can be no more
}

// New opens SFTP on conn, which the client closes in the end, and also when New fails. It waits for the server's hello: close conn
// to end that.
func New(conn net.Conn) (*Client, error) {
	c := &Client{conn: conn, extensions: map[string]string{}, ended: make(chan struct{}), calls: map[uint32]*Call{}}
	r := bufio.NewReaderSize(conn, 64<<10)
	if err := c.hello(r); err != nil {
		return nil, errors.Join(fmt.Errorf("open SFTP: %w", err), conn.Close())
	}
	go c.recvLoop(r) // ends with conn
	return c, nil
}

func (c *Client) hello(r *bufio.Reader) error {
	if _, err := c.conn.Write([]byte{0, 0, 0, 5, sftpwire.TypeInit, 0, 0, 0, 3}); err != nil {
		return err
	}
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n < 5 || n > longest {
		return sftpwire.ErrMalformed
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	d := sftpwire.Decoder{Rest: body}
	if kind, version := d.Byte(), d.Uint32(); kind != sftpwire.TypeVersion || version != 3 {
		return fmt.Errorf("%w: the server's hello is of type %d, version %d", sftpwire.ErrMalformed, kind, version)
	}
	for len(d.Rest) > 0 && d.Err == nil {
		name := d.Text()
		c.extensions[name] = d.Text()
	}
	return d.Err
}

// Has tells whether the server announced an extension.
func (c *Client) Has(extension string) bool { _, has := c.extensions[extension]; return has }

// Packet is how many bytes a READ or WRITE moves at most.
func (c *Client) Packet() int {
	if c.Has(sftpwire.ExtLimits) {
		return longData
	}
	return shortData
}

// Ended is closed when the connection has broken and nothing is under way any more.
func (c *Client) Ended() <-chan struct{} { return c.ended }

// Close breaks the connection; what is under way ends with ErrLost.
func (c *Client) Close() error { return c.conn.Close() }

// Call is a request under way. Each of the methods that give its result waits for it.
type Call struct {
	client *Client
	into   []byte // where what was read goes
	done   chan struct{}

	kind byte
	body []byte // without the id
	n    int    // bytes read
	err  error
}

// Done is closed when the answer is there, or will never be.
func (c *Call) Done() <-chan struct{} { return c.done }

// send sends a request, whose body build appends. It returns when that is on its way.
func (c *Client) send(kind byte, into []byte, build func([]byte) []byte) *Call {
	call := &Call{client: c, into: into, done: make(chan struct{})}
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		call.err = c.err
		close(call.done)
		return call
	}
	c.last++
	id := c.last
	c.calls[id] = call
	c.mu.Unlock()
	b := binary.BigEndian.AppendUint32(append(c.packet[:0], 0, 0, 0, 0, kind), id)
	c.packet = build(b)
	binary.BigEndian.PutUint32(c.packet, uint32(len(c.packet)-4))
	if _, err := c.conn.Write(c.packet); err != nil {
		_ = c.conn.Close() // recvLoop ends the calls
	}
	return call
}

// recvLoop takes answers until the connection breaks.
func (c *Client) recvLoop(r *bufio.Reader) {
	err := c.recv(r)
	_ = c.conn.Close()
	c.mu.Lock()
	c.err = errors.Join(ErrLost, err)
	left := c.calls
	c.calls = nil
	c.mu.Unlock()
	for _, call := range left {
		call.err = c.err
		close(call.done)
	}
	close(c.ended)
}

func (c *Client) recv(r *bufio.Reader) error {
	for {
		var head [9]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return err
		}
		size := binary.BigEndian.Uint32(head[:])
		if size < 5 || size > longest {
			return sftpwire.ErrMalformed
		}
		id := binary.BigEndian.Uint32(head[5:])
		c.mu.Lock()
		call := c.calls[id]
		c.mu.Unlock()
		if call == nil {
			return fmt.Errorf("%w: an answer to no request", sftpwire.ErrMalformed)
		}
		if err := call.receive(r, head[4], int(size)-5); err != nil {
			return err
		}
		c.mu.Lock()
		delete(c.calls, id)
		c.mu.Unlock()
		close(call.done)
	}
}

// receive takes the answer's body of size bytes.
func (c *Call) receive(r *bufio.Reader, kind byte, size int) error {
	c.kind = kind
	if kind != sftpwire.TypeData {
		c.body = make([]byte, size)
		_, err := io.ReadFull(r, c.body)
		return err
	}
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := int64(binary.BigEndian.Uint32(head[:]))
	if n > int64(len(c.into)) || n+4 > int64(size) {
		return fmt.Errorf("%w: more data than asked for", sftpwire.ErrMalformed)
	}
	c.n = int(n)
	if _, err := io.ReadFull(r, c.into[:n]); err != nil {
		return err
	}
	_, err := r.Discard(size - 4 - int(n))
	return err
}

// answer waits, and returns the body of an answer of that kind.
func (c *Call) answer(kind byte) (*sftpwire.Decoder, error) {
	<-c.done
	d := &sftpwire.Decoder{Rest: c.body}
	switch {
	case c.err != nil:
		return nil, c.err
	case c.kind == kind && kind != sftpwire.TypeStatus:
		return d, nil
	case c.kind != sftpwire.TypeStatus:
		return nil, fmt.Errorf("%w: an answer of type %d", sftpwire.ErrMalformed, c.kind)
	}
	code, text := d.Uint32(), d.Text()
	switch {
	case d.Err != nil && code == 0:
		return nil, d.Err
	case code == sftpwire.StatusOK && kind == sftpwire.TypeStatus:
		return d, nil
	case code == sftpwire.StatusEOF:
		return nil, io.EOF
	}
	return nil, &StatusError{Code: code, Text: text}
}

// Err is the result of a request that gives nothing else.
func (c *Call) Err() error {
	_, err := c.answer(sftpwire.TypeStatus)
	return err
}

// Count is how much was read. At the file's end it is 0 and io.EOF.
func (c *Call) Count() (int, error) {
	_, err := c.answer(sftpwire.TypeData)
	return c.n, err
}

// Attr is what STAT and its kin tell.
func (c *Call) Attr() (*Attr, error) {
	d, err := c.answer(sftpwire.TypeAttrs)
	if err != nil {
		return nil, err
	}
	return attr(d), d.Err
}

// Name is what READLINK tells.
func (c *Call) Name() (string, error) {
	d, err := c.answer(sftpwire.TypeName)
	if err != nil {
		return "", err
	}
	if n := d.Uint32(); n != 1 {
		return "", sftpwire.ErrMalformed
	}
	return d.Text(), d.Err
}

// Opened is what OPEN and OPENDIR give: the file, which the caller closes, and its attributes where the server tells them
// unasked, else nil.
func (c *Call) Opened() (*File, *Attr, error) {
	d, err := c.answer(sftpwire.TypeHandle)
	if err != nil {
		return nil, nil, err
	}
	f := &File{client: c.client, handle: d.Text()}
	if len(d.Rest) == 0 || d.Err != nil {
		return f, nil, d.Err
	}
	return f, attr(d), d.Err
}
