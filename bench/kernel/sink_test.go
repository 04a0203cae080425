package kernel

import (
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ulvs/ulvs/bench/wire"
	"github.com/ulvs/ulvs/internal/lab"
	"github.com/ulvs/ulvs/internal/xsk"
)

// sinkKind is where a contender's frames end.
type sinkKind int

const (
	noSink    sinkKind = iota // nothing takes the generator's frames: they vanish
	wireSink                  // an XDP program in the director's place
	bareSink                  // an XDP program at the generator's interface
	xdpSink                   // the same, but only frames to real servers count
	plainSink                 // those too, and the stack has them first: for what is no XDP frame
)

// catch puts the sink in its place. Real servers are numbered by the last byte of
// their link addresses, which is what sinks count by.
func (s *site) catch(k sinkKind) {
	s.Helper()
	at, o := s.node, wire.SinkOptions{}
	switch k {
	case noSink:
		return
	case wireSink:
		at = s.director
	case xdpSink, plainSink:
		o = wire.SinkOptions{Rooms: len(servers) + 1, Stack: k == plainSink}
	}
	sink, err := wire.NewSink(at, o)
	s.must(err)
	s.Cleanup(sink.Close)
	s.sink = sink
}

// Two ways for a socket to send, whose difference is what a plain sink takes.
const (
	sinkLoad  = "sink"
	intoSink  = "veth"
	intoDummy = "dummy"
)

// measureSink prints samples of what a frame takes that an AF_XDP socket sends into
// the plain sink, and into an interface that frees it at once.
func (s *site) measureSink() {
	s.Helper()
	s.catch(plainSink)
	nl := s.director.Space.Netlink()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "dummy0"
	s.must(nl.LinkAdd(&netlink.Dummy{LinkAttrs: attrs}))
	dummy, err := nl.LinkByName(attrs.Name)
	s.must(err)
	s.must(nl.LinkSetUp(dummy))
	veth, away := s.socket(s.director.Index), s.socket(dummy.Attrs().Index)
	// In turns: what comes second finds the kernel's memory as the first has left it.
	for range 3 {
		s.rounds(sinkLoad, intoSink, 32*piece, func(frames uint64) error {
			total := s.sink.Total()
			s.sendFrom(veth, int(frames))
			return s.sink.Await(total+frames, 5*time.Second)
		})
		s.rounds(sinkLoad, intoDummy, 32*piece, func(frames uint64) error {
			s.sendFrom(away, int(frames))
			return nil
		})
	}
}

// socket opens one that sends out of one of the director's interfaces.
func (s *site) socket(ifindex int) (socket *xsk.Socket) {
	s.Helper()
	var o xsk.Options
	umem, err := xsk.NewUmem(xsk.MemoryOptions{Frames: 2 * o.Frames()})
	s.must(err)
	s.Cleanup(func() { s.must(umem.Close()) })
	s.must(s.director.Space.Do(func() (err error) {
		socket, err = umem.Open(xsk.Queue{Ifindex: ifindex}, o)
		return err
	}))
	s.Cleanup(func() { s.must(socket.Close()) })
	return socket
}

// sendFrom sends n frames to a real server, as many at a time as a plane does.
func (s *site) sendFrom(socket *xsk.Socket, n int) {
	s.Helper()
	const batch = 64
	frame := make([]byte, 54)
	copy(frame, lab.MAC(1))
	copy(frame[6:], s.director.MAC)
	frame[12], frame[13], frame[14] = 8, 0, 0x45
	var packets [batch]xsk.Packet
	for ; n > 0; n -= batch {
		for i := range packets {
			packets[i] = xsk.Packet{Data: frame}
		}
		if sent := socket.Transmit(packets[:]); sent != batch {
			s.Fatalf("of %d frames, %d were sent", batch, sent)
		}
	}
}
