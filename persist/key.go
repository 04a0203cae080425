package persist

import (
	"encoding/binary"
	"net/netip"
)

// Key is what a template is found by, in five words as packet.Flow packs them:
// the client's network, the virtual address or a firewall mark, and the virtual
// port; the client port is 0. It is comparable.
type Key [5]uint64

// The protocol number of templates of firewall-mark services: one template
// spans all protocols (IPPROTO_IP).
const protoIP = 0

// Form is how a service's templates are keyed: what Key takes of a packet. It
// is worked out once for a service, and is immutable.
type Form struct {
	mask [3]uint64 // for words 0 and 2: the client's address; 1: unused
	mark uint32
	is6  bool
}

// FormFor is the form of a service: mark is its firewall mark, or 0; mask its
// persistence netmask, of the service's family, where the zero Addr is one
// host. The mask applies to the client's address only and need not be
// contiguous (ip_vs_core.c, ip_vs_sched_persist).
func FormFor(is6 bool, mark uint32, mask netip.Addr) Form {
	f := Form{mark: mark, is6: is6}
	m := [16]byte{}
	for i := range m {
		m[i] = 0xff
	}
	if mask.IsValid() {
		copy(m[:], mask.AsSlice())
	}
	if is6 {
		f.mask[0] = binary.NativeEndian.Uint64(m[:8])
		f.mask[2] = binary.NativeEndian.Uint64(m[8:])
	} else {
		// Word 0 of an IPv4 flow is the client's address and the virtual one.
		for i := 4; i < 8; i++ {
			m[i] = 0xff
		}
		f.mask[0] = binary.NativeEndian.Uint64(m[:8])
	}
	return f
}

// Key is the template key of a packet with this flow. keepPort says that the
// packet's port is the service's own, and that service is not FTP's: then the
// template holds for that port alone, otherwise for all of them
// (ip_vs_sched_persist). A mark's template does not look at the virtual
// address, the port or the protocol, unless keepPort.
func (f *Form) Key(flow *[5]uint64, keepPort bool) Key {
	k := Key(*flow)
	k[0] &= f.mask[0]
	if f.is6 {
		k[2] &= f.mask[2]
	}
	var w [8]byte
	binary.NativeEndian.PutUint64(w[:], k[1])
	w[0], w[1] = 0, 0 // client port
	if !keepPort {
		w[2], w[3] = 0, 0
		if f.mark != 0 {
			w[4] = protoIP
			var v [8]byte
			if f.is6 {
				// The kernel compares a mark's whole union; its first four
				// bytes are the mark, the rest is zero.
				binary.BigEndian.PutUint32(v[:], f.mark)
				k[3], k[4] = binary.NativeEndian.Uint64(v[:]), 0
			} else {
				binary.NativeEndian.PutUint64(v[:], k[0])
				binary.BigEndian.PutUint32(v[4:], f.mark)
				k[0] = binary.NativeEndian.Uint64(v[:])
			}
		}
	}
	k[1] = binary.NativeEndian.Uint64(w[:])
	return k
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

// Virtual is the virtual address and port; see Client.
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

// Protocol is the IP protocol, 0 for a mark's template.
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
