// Package dataplane is the border between the wire and the director: what a
// plane hands in, what it is told to do with it, and where packets go next.
//
// A Plane owns interfaces and the memory of frames. It collects frames in
// batches, gives them to a Handler, and carries out the verdicts that the
// handler wrote into them. It decides nothing about services.
//
// Implementations are in the packages below this one; dataplanetest has one
// that lives in memory.
package dataplane

import (
	"context"
	"sync/atomic"
	"time"
)

// Verdict is what a plane does with a frame after Handle returned.
type Verdict uint8

const (
	// Pass leaves the frame to the host's own stack (IPVS's NF_ACCEPT). It is
	// the zero value: a frame that nobody claimed is not ours.
	Pass Verdict = iota
	// Drop ends the frame here (NF_DROP); the handler has counted why.
	Drop
	// Transmit sends Frame.Data: to Frame.Hop, or back out of Frame.In with
	// the addresses already in Data when Hop is nil.
	Transmit
	// Host gives Data to the host's own stack although the plane withholds
	// it. Only for planes that Inject; unlike Pass it is for claimed frames.
	Host
)

// Offload describes what a frame still owes the wire: a checksum not yet
// filled in, or segmentation. It has the fields of Linux's virtio_net_hdr
// (include/uapi/linux/virtio_net.h) in host byte order, with offsets counted
// from the first byte of Frame.Data.
//
// The zero value is a frame that owes nothing.
type Offload struct {
	Flags      uint8  // VIRTIO_NET_HDR_F_*; 1 is NEEDS_CSUM
	GSOType    uint8  // VIRTIO_NET_HDR_GSO_*; 0 is none
	HdrLen     uint16 // a hint at the bytes of all headers; many drivers say something else
	GSOSize    uint16 // payload bytes of each segment
	CsumStart  uint16 // where the unfinished checksum's sum starts
	CsumOffset uint16 // where it is to be stored, from CsumStart
}

// NeedsChecksum is the flag in Offload.Flags that says that the checksum at
// CsumStart+CsumOffset holds only the pseudo header's sum
// (VIRTIO_NET_HDR_F_NEEDS_CSUM).
const NeedsChecksum = 1

// ChecksumValid is the flag in Offload.Flags that says that somebody has
// verified the checksum already (VIRTIO_NET_HDR_F_DATA_VALID).
const ChecksumValid = 2

// Frame is one Ethernet frame on its way through the director.
type Frame struct {
	// Data is the frame from its destination MAC on, without FCS, VLAN tags
	// in place. The plane owns the memory and gives it for the time of
	// Handle. The handler may edit it in place, or put an answer here, in
	// Room or in memory that nobody else uses.
	Data []byte
	// Offload is what Data still owes the wire. A handler that replaces Data
	// replaces Offload with it.
	Offload Offload
	// In is the kernel's index of the interface that the frame came in on.
	In int
	// Hop is where a Transmit goes; the plane writes the link addresses. Nil
	// means: out of In, with the addresses that Data holds.
	Hop *NextHop
	// Room is memory for an answer in the place of Data, empty and with some
	// capacity, that the plane gives with the frame; nil is fine too. What
	// does not fit is allocated.
	Room []byte
	// Taken says that the host's stack has not got the frame, claimed or not, and gets it where the verdict is
	// Pass. Other frames that are not claimed it has got by then.
	Taken bool
	// Handed says that a program has handed the frame over and counts that.
	Handed bool
	// Left is the handler's, or nil: it counts the frames that the plane has ended with.
	Left *atomic.Uint32
	// Verdict is the handler's answer; Pass until it says otherwise.
	Verdict Verdict
}

// Leave counts, once, that the plane has ended with a frame: it was sent, dropped or passed.
func (f *Frame) Leave() {
	if f.Left != nil {
		f.Left.Add(1)
		f.Left = nil
	}
}

// Carrying is a Handler that wants to know when what it said of a batch has been done.
type Carrying interface{ Carried() }

// Carried counts that the plane has ended with the frames of a batch, but for those that are parked, and says so.
func Carried(h Handler, batch []Frame) {
	for i := range batch {
		batch[i].Leave()
	}
	if c, is := h.(Carrying); is {
		c.Carried()
	}
}

// Handler decides about frames. One implementation is director.Director.
type Handler interface {
	// Handle writes a verdict into each frame of the batch. now is
	// Monotonic, read once for the batch. It must not keep the frames.
	// A plane may call it from several goroutines at once, each with frames
	// of its own and none of them twice.
	Handle(now time.Duration, batch []Frame)
}

// Fact is something that an operator should know of a plane, in words.
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Described is a Plane that has Facts: how it came to work, not what it counts.
type Described interface{ Facts() []Fact }

// Resolving is a Plane that brings the Resolver for its interfaces, and runs it while it
// runs itself.
type Resolving interface{ Resolver() Resolver }

// Plane moves frames between the wire and a Handler.
type Plane interface {
	// Name is the plane's name on the command line and in status: "afpacket".
	Name() string
	// Run carries frames until ctx ends, or the plane fails. It returns
	// nil after ctx ended and closes what it opened.
	Run(ctx context.Context, h Handler) error
	// Send sends one frame of the handler's own: to the host if its verdict is
	// Host, otherwise to its Hop, or out of In. Data must not change afterwards.
	// It may be called from Handle, and sends at once.
	Send(f *Frame)
	// Claim tells the plane which packets the director answers for, so that
	// the host's stack keeps its hands off them. It replaces the last claim
	// as a whole, and may be called before and during Run. A plane that
	// takes packets away from the host by itself ignores it.
	Claim(Claims) error
	// Withholds reports whether the host's stack does not get a claimed packet
	// even when the verdict is Pass, so that the handler has to answer in the
	// host's place. It is constant.
	Withholds() bool
	// Injects reports whether a verdict of Host reaches the host's stack. It is
	// constant. A plane that injects and does not withhold gives the host what is
	// passed, and nothing else.
	Injects() bool
	// Counters are the plane's own counters, by name, since it was made:
	// frames in and out, and every reason for which it lost one. Safe to
	// call at any time.
	Counters() map[string]uint64
}
