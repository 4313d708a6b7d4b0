package sftpwire

import "encoding/binary"

// Flags of ATTRS (section 5): which fields there are.
const (
	AttrSize     = 1
	AttrOwner    = 2
	AttrMode     = 4
	AttrTimes    = 8
	AttrExtended = 1 << 31
)

// Attrs are what is told of a file, or asked for. A field without its flag is zero.
type Attrs struct {
	Flags              uint32 // of those above, but for AttrExtended, which goes by the two last fields
	Size               uint64
	UID, GID           uint32
	Mode               uint32 // st_mode
	Accessed, Modified uint32 // seconds since 1970
	// OpenStat: ExtOpenStat is among them.
	OpenStat bool
	// Stat is what StatExtension tells; without Stat.Known it is not there.
	Stat Stat
}

// StatExtension is the extended attribute that goes with every ATTRS of our server, for what version 3 has no field for. Its
// data is big endian: inode (8), links (4), blocks (8), device number (8), then the times of access, change of content and
// change of status (8 each).
const StatExtension = "stat@teleswap.dev"

const statSize = 8 + 4 + 8 + 8 + 3*8

// Stat is the data of StatExtension.
type Stat struct {
	Known                       bool
	Inode                       uint64
	Links                       uint32
	Blocks                      uint64 // of 512 bytes
	Device                      uint64 // st_rdev
	Accessed, Modified, Changed int64  // nanoseconds since 1970
}

// Append appends the attributes to a packet.
func (a *Attrs) Append(b []byte) []byte {
	be := binary.BigEndian
	extended := uint32(0)
	if a.OpenStat {
		extended++
	}
	if a.Stat.Known {
		extended++
	}
	flags := a.Flags &^ AttrExtended
	if extended > 0 {
		flags |= AttrExtended
	}
	b = be.AppendUint32(b, flags)
	if flags&AttrSize != 0 {
		b = be.AppendUint64(b, a.Size)
	}
	if flags&AttrOwner != 0 {
		b = be.AppendUint32(be.AppendUint32(b, a.UID), a.GID)
	}
	if flags&AttrMode != 0 {
		b = be.AppendUint32(b, a.Mode)
	}
	if flags&AttrTimes != 0 {
		b = be.AppendUint32(be.AppendUint32(b, a.Accessed), a.Modified)
	}
	if extended > 0 {
		b = be.AppendUint32(b, extended)
	}
	if a.OpenStat {
		b = AppendString(AppendString(b, ExtOpenStat), "")
	}
	if a.Stat.Known {
		b = a.Stat.append(be.AppendUint32(AppendString(b, StatExtension), statSize))
	}
	return b
}

func (s *Stat) append(b []byte) []byte {
	be := binary.BigEndian
	b = be.AppendUint32(be.AppendUint64(b, s.Inode), s.Links)
	b = be.AppendUint64(be.AppendUint64(b, s.Blocks), s.Device)
	for _, t := range [...]int64{s.Accessed, s.Modified, s.Changed} {
		b = be.AppendUint64(b, uint64(t))
	}
	return b
}

// Attrs takes attributes off. Extended ones that it does not know are passed over.
func (d *Decoder) Attrs() Attrs {
	a := Attrs{Flags: d.Uint32()}
	if a.Flags&AttrSize != 0 {
		a.Size = d.Uint64()
	}
	if a.Flags&AttrOwner != 0 {
		a.UID, a.GID = d.Uint32(), d.Uint32()
	}
	if a.Flags&AttrMode != 0 {
		a.Mode = d.Uint32()
	}
	if a.Flags&AttrTimes != 0 {
		a.Accessed, a.Modified = d.Uint32(), d.Uint32()
	}
	if a.Flags&AttrExtended == 0 {
		return a
	}
	a.Flags &^= AttrExtended
	for n := d.Uint32(); n > 0 && d.Err == nil; n-- {
		switch name, data := d.Text(), d.Bytes(); {
		case name == ExtOpenStat:
			a.OpenStat = true
		case name == StatExtension && len(data) >= statSize:
			a.Stat = stat(Decoder{Rest: data})
		}
	}
	return a
}

func stat(d Decoder) Stat {
	return Stat{
		Known: true,
		Inode: d.Uint64(), Links: d.Uint32(), Blocks: d.Uint64(), Device: d.Uint64(),
		Accessed: int64(d.Uint64()), Modified: int64(d.Uint64()), Changed: int64(d.Uint64()),
	}
}
