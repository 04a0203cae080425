package forward

import (
	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/sched"
)

// Dest is a real server at work. It outlives its place in a service as long as
// connections or templates refer to it.
type Dest struct {
	sched.Dest
	conf      ulvs.Destination
	svc       *Service
	hop       *dataplane.NextHop
	available bool
	suspended bool // it is not available as its service is away
	trashed   int  // its place in the trash, where it is there
	// pushed is what the plane was told last of where the server is. Until graceUntil, what
	// it knows from an earlier process holds; 0: no grace.
	pushed     *dataplane.Neighbor
	graceUntil uint32
	*state
}

// Conf returns the real server's configuration. The caller holds the control lock.
func (dst *Dest) Conf() ulvs.Destination { return dst.conf }

// What the director keeps in a connection's owner bits: whether it is listed
// with its real server's port, and the forwarding method that the server had
// when it was made (ip_vs_bind_dest copies it).
const ownDestPort = 1

func ownerBits(destPort bool, m ulvs.ForwardMethod) uint8 {
	bits := uint8(m) << 1
	if destPort {
		bits |= ownDestPort
	}
	return bits
}

func methodOf(owner uint8) ulvs.ForwardMethod { return ulvs.ForwardMethod(owner >> 1) }

// gone reports whether it was removed.
func (dst *Dest) gone() bool { return !dst.available && !dst.suspended }

// unresolved reports whether the plane that forwards by itself does not know how it is reached.
func (dst *Dest) unresolved() bool {
	return dst.graceUntil == 0 && (dst.pushed == nil || dst.pushed.State != dataplane.HopReachable)
}

// once counts a connection of one packet, which is over at once but may have
// brought the server to its upper threshold.
func (dst *Dest) once() *Dest {
	dst.Once()
	return dst
}
