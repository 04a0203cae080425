// Package fragment remembers where the first fragment of a datagram went, so
// that those that follow, which have no ports, go there too.
//
// The kernel reassembles IPv4 datagrams before IPVS sees them, and in IPv6
// relates fragments to their first by connection tracking; ulvs forwards
// fragments as they come.
package fragment

import (
	"encoding/binary"
	"hash/maphash"

	"github.com/ulvs/ulvs/packet"
)

// key is what the fragments of one datagram have in common (RFC 791, section
// 3.2; RFC 8200, section 4.5).
type key struct {
	addrs [4]uint64
	id    uint32
	proto uint8
	is6   bool
}

type entry struct {
	key  key
	dest uint32 // 0: free
	seen uint32 // tick
}

const (
	ways = 4
	// early is how far, in ticks, a caller's clock may be behind another's:
	// batches read it before they wait for their turn.
	early = 256
)

// Table remembers a fixed number of datagrams; the oldest of four gives way. It
// is not safe for concurrent use. Make it with New.
type Table struct {
	sets [][ways]entry
	life uint32
	seed maphash.Seed
}

// New makes a table for about size datagrams, each remembered for life ticks
// (the kernel's ipfrag_time is 30 s).
func New(size int, life uint32) *Table {
	n := 1
	for n*ways < size {
		n *= 2
	}
	return &Table{sets: make([][ways]entry, n), life: life, seed: maphash.MakeSeed()}
}

func keyOf(p *packet.Packet) key {
	f := &p.Flow
	return key{addrs: [4]uint64{f[0], f[2], f[3], f[4]}, id: p.FragID, proto: p.Proto, is6: p.Is6}
}

func (t *Table) set(k *key) *[ways]entry {
	var b [38]byte
	for i, w := range k.addrs {
		binary.NativeEndian.PutUint64(b[i*8:], w)
	}
	binary.NativeEndian.PutUint32(b[32:], k.id)
	b[36] = k.proto
	if k.is6 {
		b[37] = 1
	}
	return &t.sets[maphash.Bytes(t.seed, b[:])&uint64(len(t.sets)-1)]
}

// First remembers that the datagram whose first fragment p is goes to dest,
// which is not 0.
func (t *Table) First(p *packet.Packet, dest, now uint32) {
	k := keyOf(p)
	set := t.set(&k)
	at := &set[0]
	for i := range set {
		e := &set[i]
		if e.dest == 0 || e.key == k {
			at = e
			break
		}
		if now-e.seen+early > now-at.seen+early {
			at = e
		}
	}
	*at = entry{key: k, dest: dest, seen: now}
}

// Later says where the datagram of a later fragment p goes; false if its first
// fragment is not known.
func (t *Table) Later(p *packet.Packet, now uint32) (dest uint32, ok bool) {
	k := keyOf(p)
	set := t.set(&k)
	for i := range set {
		if e := &set[i]; e.dest != 0 && e.key == k && now-e.seen+early < t.life+early {
			return e.dest, true
		}
	}
	return 0, false
}
