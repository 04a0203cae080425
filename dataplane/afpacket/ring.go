package afpacket

import "golang.org/x/sys/unix"

// An interface has two rings, so that whoever sends more SYNs than the director can decide
// about fills only the ring of those. A packet filter knows them by their look (classify).
// Everything else goes to the other ring, where a flood of UDP, of ICMP, of fragments, or of
// TCP without SYN still costs connections packets: such a packet looks like one of a
// connection, and the table that would tell is out of a classic filter's reach. (XDP looks
// there first.) Rings by a hash of the flow would not help, as a flood from many sources
// fills them all.
//
// The filters are complementary, and each socket runs its own before it copies anything
// (net/packet/af_packet.c, tpacket_rcv). PACKET_FANOUT would run one only, but numbers its
// sockets anew when the interface was down.
//
// Frames of both rings are taken in the order in which they came, by their timestamps, as
// from one ring, while few SYNs wait. Where more than syncedSYNs do, the other frames come
// first. Then a SYN is overtaken only by what its client sends without waiting for the
// answer, which no handshake does. That is taken for a packet of no connection: if it is an
// RST, what the SYN opens stays half-open, as where the client is gone.
const (
	// syncedSYNs is how many may wait before order is given up, which costs others the time
	// that so many take.
	syncedSYNs = 256
	// perSYN is how many frames go before a SYN then.
	perSYN = 7
)

// ring is a packet socket with a receive ring.
type ring struct {
	fd    int
	mem   []byte
	head  int // the first slot that the kernel does not have, or fills next
	taken int // slots from there on that the batch has
}

// peek is the first slot that the batch does not have.
func (g *ring) peek() (slot []byte, status uint32) {
	slot = g.slot(g.taken)
	return slot, loadStatus(slot)
}

// slot is the i-th one from the head on.
func (g *ring) slot(i int) []byte {
	at := (g.head + i) * slotSize % len(g.mem)
	return g.mem[at : at+slotSize : at+slotSize]
}

// giveBack gives the kernel the batch's slots, and returns how many these were.
func (g *ring) giveBack() int {
	n := g.taken
	for i := range n {
		storeStatus(g.slot(i), unix.TP_STATUS_KERNEL)
	}
	g.head = (g.head + n) % (len(g.mem) / slotSize)
	g.taken = 0
	return n
}

// lost is how many frames found the ring full since this was asked last: reading the
// kernel's counter clears it.
func (g *ring) lost() uint64 {
	st, err := unix.GetsockoptTpacketStats(g.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0
	}
	return uint64(st.Drops)
}

// order says from which ring the next frame is taken.
type order struct {
	flooded  bool // more SYNs wait than are kept in order
	overtook int  // frames that went before the SYN that is the next one
}

// begin finds out how many SYNs wait. It comes before a batch.
func (s *receiveSocket) begin() {
	s.order.flooded = loadStatus(s.syns.slot(syncedSYNs))&unix.TP_STATUS_USER != 0
}

// next is the slot whose turn it is, and its ring; nil if both rings are empty.
func (s *receiveSocket) next() (from *ring, slot []byte, status uint32) {
	// A SYN that came before the frame that is seen here is seen too, as its slot was
	// written before.
	slot, status = s.peek()
	syn, its := s.syns.peek()
	if its&unix.TP_STATUS_USER == 0 {
		if status&unix.TP_STATUS_USER == 0 {
			return nil, nil, 0
		}
		return &s.ring, slot, status
	}
	if status&unix.TP_STATUS_USER == 0 {
		status = loadStatus(slot) // and the other way round
	}
	if status&unix.TP_STATUS_USER != 0 && s.order.before(slot, syn) {
		s.order.overtook++
		return &s.ring, slot, status
	}
	s.order.overtook = 0
	return &s.syns, syn, its
}

// before reports that a frame goes before a SYN. Not for ever, also where the host's clock
// was put back: more than its ring has cannot have come before the SYN.
func (o *order) before(slot, syn []byte) bool {
	if o.flooded {
		return o.overtook < perSYN
	}
	return o.overtook < rxSlots && stamp(slot) < stamp(syn)
}

// stamp is when a frame came, in no unit.
func stamp(slot []byte) uint64 {
	return uint64(native.Uint32(slot[slotSec:]))<<32 | uint64(native.Uint32(slot[slotNsec:]))
}
