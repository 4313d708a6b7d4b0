// Package sftpwire is how SFTP, version 3 (draft-ietf-secsh-filexfer-02), looks on the wire: its numbers, its strings, its
// ATTRS, OpenSSH's extensions (its PROTOCOL file, section 4) and ours. The daemon's client and the agent's server both
// speak by it. It knows neither files nor connections, and what a request does is theirs.
package sftpwire

import (
	"encoding/binary"
	"errors"
)

// Types of packets (section 3).
const (
	TypeInit          = 1
	TypeVersion       = 2
	TypeOpen          = 3
	TypeClose         = 4
	TypeRead          = 5
	TypeWrite         = 6
	TypeLstat         = 7
	TypeFstat         = 8
	TypeSetstat       = 9
	TypeFsetstat      = 10
	TypeOpendir       = 11
	TypeReaddir       = 12
	TypeRemove        = 13
	TypeMkdir         = 14
	TypeRmdir         = 15
	TypeRealpath      = 16
	TypeStat          = 17
	TypeRename        = 18
	TypeReadlink      = 19
	TypeSymlink       = 20
	TypeStatus        = 101
	TypeHandle        = 102
	TypeData          = 103
	TypeName          = 104
	TypeAttrs         = 105
	TypeExtended      = 200
	TypeExtendedReply = 201
)

// Codes of STATUS (section 7).
const (
	StatusOK          = 0
	StatusEOF         = 1
	StatusNoSuchFile  = 2
	StatusDenied      = 3
	StatusFailure     = 4
	StatusBadMessage  = 5
	StatusUnsupported = 8
)

// Flags of OPEN (section 6.3).
const (
	OpenRead   = 1
	OpenWrite  = 2
	OpenAppend = 4
	OpenCreate = 8
	OpenTrunc  = 16
	OpenExcl   = 32
)

// Extensions: OpenSSH's.
const (
	ExtPosixRename = "posix-rename@openssh.com"
	ExtStatvfs     = "statvfs@openssh.com"
	ExtFstatvfs    = "fstatvfs@openssh.com"
	ExtHardlink    = "hardlink@openssh.com"
	ExtFsync       = "fsync@openssh.com"
	ExtLsetstat    = "lsetstat@openssh.com"
	ExtLimits      = "limits@openssh.com"
)

// Extensions: ours, each of version 1.
const (
	// ExtOrderedWrites says that the WRITEs of one handle are done in the order of their arrival.
	ExtOrderedWrites = "ordered-writes@teleswap.dev"
	// ExtOpenStat, among the attributes of an OPEN, asks for the file's ATTRS behind the HANDLE.
	ExtOpenStat = "open-stat@teleswap.dev"
)

// ErrMalformed is the error of a packet that is not what its type says.
var ErrMalformed = errors.New("malformed SFTP packet")

// Decoder takes fields off a packet. The first error stays, and what comes after it is zero. It is for one goroutine.
type Decoder struct {
	Rest []byte // what is still to be taken
	Err  error  // ErrMalformed where a field was longer than what was left
}

func (d *Decoder) next(n int) []byte {
	if d.Err != nil || n < 0 || len(d.Rest) < n {
		d.Err = ErrMalformed
		return nil
	}
	b := d.Rest[:n]
	d.Rest = d.Rest[n:]
	return b
}

// Byte takes one byte.
func (d *Decoder) Byte() byte {
	if b := d.next(1); b != nil {
		return b[0]
	}
	return 0
}

// Uint32 takes 4 bytes, big endian.
func (d *Decoder) Uint32() uint32 {
	if b := d.next(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// Uint64 takes 8 bytes, big endian.
func (d *Decoder) Uint64() uint64 {
	if b := d.next(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// Bytes takes a string of the protocol, which is bytes behind their number. They are the packet's own, not a copy.
func (d *Decoder) Bytes() []byte { return d.next(int(d.Uint32())) }

// Text is Bytes as a string.
func (d *Decoder) Text() string { return string(d.Bytes()) }

// AppendString appends a string of the protocol.
func AppendString[S ~string | ~[]byte](b []byte, s S) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}
