package persist

import (
	"encoding/binary"
	"net/netip"
)

// Key is what a template is found by, in five words as packet.Flow packs them:
// the client's network, the virtual address or a firewall mark, and the virtual
// port; the client port is 0. It is comparable.
type Key [5]uint64

// Form is how a service's templates are keyed: what Fill takes of a packet. It is
// worked out once for a service, and is immutable.
type Form struct {
	own, other choice // for the service's own port, and for others
}

// choice is which bits of a flow are a key's, and what is put beside them.
type choice struct{ keep, put Key }

// FormFor returns the form of a service: mark is its firewall mark, or 0; mask its
// persistence netmask, of the service's family, where the zero Addr is one
// host. The mask applies to the client's address only and need not be
// contiguous (ip_vs_core.c, ip_vs_sched_persist).
func FormFor(is6 bool, mark uint32, mask netip.Addr) Form {
	const all = ^uint64(0)
	f := choice{keep: Key{all, all, all, all, all}}
	m := [16]byte{}
	for i := range m {
		m[i] = 0xff
	}
	if mask.IsValid() {
		copy(m[:], mask.AsSlice())
	}
	if is6 {
		f.keep[2] = binary.NativeEndian.Uint64(m[8:])
	} else {
		// Word 0 of an IPv4 flow is the client's address and the virtual one.
		copy(m[4:], []byte{0xff, 0xff, 0xff, 0xff})
	}
	f.keep[0] = binary.NativeEndian.Uint64(m[:8])
	word := func(b ...byte) uint64 { return binary.NativeEndian.Uint64(append(b, make([]byte, 8-len(b))...)) }
	f.keep[1] &^= word(0xff, 0xff) // client port
	own := f
	f.keep[1] &^= word(0, 0, 0xff, 0xff)
	if mark != 0 {
		f.keep[1] &^= word(0, 0, 0, 0, 0xff) // IPPROTO_IP: one template spans all protocols
		v := binary.BigEndian.AppendUint32(nil, mark)
		if is6 {
			// The kernel compares a mark's whole union; its first four bytes are
			// the mark, the rest is zero.
			f.keep[3], f.keep[4] = 0, 0
			f.put[3] = word(v...)
		} else {
			f.keep[0] &^= word(0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff)
			f.put[0] = word(append(make([]byte, 4), v...)...)
		}
	}
	return Form{own: own, other: f}
}

// Fill makes k the template key of a packet with this flow. keepPort says that the
// packet's port is the service's own, and that service is not FTP's: then the
// template holds for that port alone, otherwise for all of them
// (ip_vs_sched_persist). A mark's template does not look at the virtual
// address, the port or the protocol, unless keepPort.
func (f *Form) Fill(k *Key, flow *[5]uint64, keepPort bool) {
	c := &f.other
	if keepPort {
		c = &f.own
	}
	k[0] = flow[0]&c.keep[0] | c.put[0]
	k[1] = flow[1]&c.keep[1] | c.put[1]
	k[2] = flow[2]&c.keep[2] | c.put[2]
	k[3] = flow[3]&c.keep[3] | c.put[3]
	k[4] = flow[4]&c.keep[4] | c.put[4]
}

// Words returns which bits of a flow are a template's key, and what is put to them, for a
// program that makes keys by itself.
func (f *Form) Words(keepPort bool) (keep, put [5]uint64) {
	c := &f.other
	if keepPort {
		c = &f.own
	}
	return c.keep, c.put
}

// Client, Virtual and Protocol take a key apart, for listing. The virtual
// address of a mark's template is the mark: 0.0.0.10.
func (k *Key) Client() netip.Addr {
	var b [16]byte
	binary.NativeEndian.PutUint64(b[:8], k[0])
	if !k.is6() {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	binary.NativeEndian.PutUint64(b[8:], k[2])
	return netip.AddrFrom16(b)
}

// Virtual returns the virtual address and port; see Client.
func (k *Key) Virtual() netip.AddrPort {
	var w [8]byte
	binary.NativeEndian.PutUint64(w[:], k[1])
	port := binary.BigEndian.Uint16(w[2:])
	var b [16]byte
	if !k.is6() {
		binary.NativeEndian.PutUint64(b[:8], k[0])
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), port)
	}
	binary.NativeEndian.PutUint64(b[:8], k[3])
	binary.NativeEndian.PutUint64(b[8:], k[4])
	return netip.AddrPortFrom(netip.AddrFrom16(b), port)
}

// Protocol returns the IP protocol, 0 for a mark's template.
func (k *Key) Protocol() uint8 {
	var w [8]byte
	binary.NativeEndian.PutUint64(w[:], k[1])
	return w[4]
}

func (k *Key) is6() bool {
	var w [8]byte
	binary.NativeEndian.PutUint64(w[:], k[1])
	return w[5] == 6
}
