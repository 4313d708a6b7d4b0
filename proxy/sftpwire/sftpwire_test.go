package sftpwire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"
)

// What stands here in hexadecimal is taken from the draft's and our own descriptions, not from the code.
var attrs = []struct {
	name string
	wire string
	Attrs
}{
	{"none", "00000000", Attrs{}},
	{"size", "00000001" + "0000000000000102", Attrs{Flags: AttrSize, Size: 0x102}},
	{
		"all fields", "0000000f" + "0000000000000005" + "00000001" + "00000002" + "000081a4" + "00000003" + "00000004",
		Attrs{Flags: AttrSize | AttrOwner | AttrMode | AttrTimes, Size: 5, UID: 1, GID: 2, Mode: 0o100644, Accessed: 3, Modified: 4},
	},
	{
		"an OPEN that asks for attributes", "80000004" + "000001a4" + "00000001" +
			"00000016" + hex.EncodeToString([]byte("open-stat@teleswap.dev")) + "00000000",
		Attrs{Flags: AttrMode, Mode: 0o644, OpenStat: true},
	},
	{
		"all of stat", "80000000" + "00000001" + "00000011" + hex.EncodeToString([]byte("stat@teleswap.dev")) +
			"00000034" + "0000000000000001" + "00000002" + "0000000000000003" + "0000000000000004" +
			"0000000000000005" + "0000000000000006" + "ffffffffffffffff",
		Attrs{Stat: Stat{Known: true, Inode: 1, Links: 2, Blocks: 3, Device: 4, Accessed: 5, Modified: 6, Changed: -1}},
	},
}

func TestAttrs(t *testing.T) {
	for _, tt := range attrs {
		t.Run(tt.name, func(t *testing.T) {
			wire, err := hex.DecodeString(tt.wire)
			if err != nil {
				t.Fatal(err)
			}
			if got := tt.Append([]byte("before")); !bytes.Equal(got, append([]byte("before"), wire...)) {
				t.Errorf("appended: %x, want %x", got, wire)
			}
			d := Decoder{Rest: append(wire, "behind"...)}
			if got := d.Attrs(); got != tt.Attrs || d.Err != nil || string(d.Rest) != "behind" {
				t.Errorf("taken: %+v, %v, and %q is left; want %+v", got, d.Err, d.Rest, tt.Attrs)
			}
			d = Decoder{Rest: wire[:len(wire)-1]}
			if d.Attrs(); !errors.Is(d.Err, ErrMalformed) {
				t.Errorf("cut short: %v, want %v", d.Err, ErrMalformed)
			}
		})
	}
}

func TestUnknownExtensionsArePassedOver(t *testing.T) {
	b := []byte{0x80, 0, 0, 0, 0, 0, 0, 3}
	b = AppendString(AppendString(b, "other@example.com"), "data")
	b = AppendString(AppendString(b, StatExtension), "of another version")
	b = AppendString(AppendString(b, ExtOpenStat), "")
	d := Decoder{Rest: b}
	if got := d.Attrs(); got != (Attrs{OpenStat: true}) || d.Err != nil || len(d.Rest) > 0 {
		t.Errorf("got %+v, %v, and %q is left", got, d.Err, d.Rest)
	}
}

// Whatever arrives, what was understood of it is written as it is understood.
func FuzzAttrs(f *testing.F) {
	for _, tt := range attrs {
		wire, err := hex.DecodeString(tt.wire)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		d := Decoder{Rest: packet}
		a := d.Attrs()
		if d.Err != nil {
			return
		}
		again := Decoder{Rest: a.Append(nil)}
		a.Flags &= AttrSize | AttrOwner | AttrMode | AttrTimes // of others nothing is known, not even how long they are
		got := again.Attrs()
		got.Flags &= AttrSize | AttrOwner | AttrMode | AttrTimes
		if got != a || again.Err != nil || len(again.Rest) > 0 {
			t.Errorf("%+v became %+v: %v", a, got, again.Err)
		}
	})
}
