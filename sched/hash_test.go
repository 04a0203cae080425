package sched

import (
	"net/netip"
	"testing"
)

// The kernel's own test has these for the bytes 0 to 3 under the key 0 to 15
// (lib/siphash_kunit.c, 64-bit).
func TestHalfSip(t *testing.T) {
	if h := halfSip(0x03020100, 0x0706050403020100, 0x0f0e0d0c0b0a0908); h != 0x88d38328 {
		t.Errorf("%#x", h)
	}
}

func TestFold(t *testing.T) {
	for _, tt := range []struct {
		addr string
		want uint32
	}{
		{"192.168.10.1", 0xc0a80a01},
		{"2001:db8::1", 0x20010db8 ^ 1},
		{"1111:1111:2222:2222:4444:4444:8888:8888", 0xffffffff},
	} {
		a := netip.MustParseAddr(tt.addr)
		var b [16]byte
		copy(b[:], a.AsSlice())
		if h := fold(&b, a.Is6()); h != tt.want {
			t.Errorf("%s: %#x, want %#x", tt.addr, h, tt.want)
		}
	}
}
