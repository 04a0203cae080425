package conformance

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// A barrier is a packet behind a batch whose fate is always the same. Packets
// do not overtake one another on their way through a director, so when the
// barrier has come through, packets of the batch that were heard of nowhere
// were dropped: silence is known without waiting for it.
//
// Kernel IPVS works where the packet arrives, so an echo request to the
// director's own address will do. ulvs works beside the host's stack; its
// barrier has to be a packet of a service. And on AF_XDP there are two ways to
// it: first packets of TCP and UDP come by other sockets than SCTP, ICMP and
// fragments do, so that there has to be one of each, the second a fragment.

// BarrierService is where ulvs's barriers go: a UDP service in one-packet mode,
// with one real server, which listings do not show.
var BarrierService = netip.MustParseAddrPort("192.168.10.199:59999")

const (
	barrierPort = 0x7e57 // the echo's identifier, or the source port
	// barrierPatience is how long a barrier may take before something is wrong.
	barrierPatience = time.Minute
)

// barrier is the packet; at says through what it goes.
func barrier(number int, service bool) Packet {
	p := Packet{
		Number: number, Proto: "icmp", TTL: 64, Size: 4,
		Src: netip.AddrPortFrom(addr4(clientNumber), barrierPort), Dst: netip.AddrPortFrom(addr4(directorNumber), 0),
	}
	if service {
		p.Proto, p.Dst = "udp", BarrierService
	}
	return p
}

// frames are the barrier's.
func (p *player) frames(b Packet) ([][]byte, error) {
	from, to := p.stage.client.MAC(), p.stage.director.MAC()
	frames, err := craft(b, from, to)
	if err != nil || !p.viaService {
		return frames, err
	}
	b.Fragments, b.Size = 2, 64
	pieces, err := craft(b, from, to)
	if err != nil {
		return nil, err
	}
	return append(frames, pieces[0]), nil // nobody waits for the rest
}

// passed reports whether the barrier of a number has come through, on each way.
func (p *player) passed(number int) bool {
	return p.observer.passed == number && (!p.viaService || p.observer.piece == number)
}

// barrierNumber recognizes a barrier that came through.
func barrierNumber(d datagram) (number int, ok bool) {
	p := d.payload
	switch {
	case len(p) < 12:
		return 0, false
	case d.proto == 17:
		ok = d.dst == BarrierService.Addr() && binary.BigEndian.Uint16(p[2:]) == BarrierService.Port()
	case d.proto == 1:
		ok = p[0] == 0 && d.src == addr4(directorNumber) && binary.BigEndian.Uint16(p[4:]) == barrierPort
	}
	return int(binary.BigEndian.Uint32(p[8:])), ok
}

// settle sends a barrier and listens until it came through, and a moment more
// if there are packets without a fate.
func (p *player) settle(first, count int) error {
	p.barriers++
	b := barrier(p.barriers, p.viaService)
	frames, err := p.frames(b)
	if err != nil {
		return err
	}
	if err := p.wire.send(frames...); err != nil {
		return err
	}
	deadline := time.Now().Add(barrierPatience)
	for {
		if err := p.wire.hear(p.observer); err != nil {
			return err
		}
		if p.passed(p.barriers) {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the director has not let the barrier %v through within %v", b, barrierPatience)
		}
		if err := p.wire.wait(100 * time.Millisecond); err != nil {
			return err
		}
	}
	deadline = time.Now().Add(p.patience)
	for p.observer.missing(first, count) && time.Now().Before(deadline) {
		if err := p.wire.wait(time.Until(deadline)); err != nil {
			return err
		}
		if err := p.wire.hear(p.observer); err != nil {
			return err
		}
	}
	return nil
}
