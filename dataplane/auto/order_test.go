package auto_test

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane/auto"
	"github.com/ulvs/ulvs/dataplane/xdp"
	"github.com/ulvs/ulvs/packet"
)

// The ports of services whose flows pass from Go to the program: Go opens those of late, and the program those
// of early.
const (
	portLate  = 91
	portEarly = 92
)

// No packet overtakes another of its flow while that passes from Go to the program: Go makes the entry, and
// then stands still with more of the flow in its rings when the next ones come.
func TestOrder(t *testing.T) {
	planes := map[string]shape{
		"tcx": {plane: auto.TCX}, "xdp": {plane: auto.XDP, sockets: xdp.SocketsOn}, "afpacket": {plane: auto.AFPacket}}
	for name, of := range planes {
		for what, f := range map[string]func(*street){
			"sloppy_tcp taken up in the middle": func(s *street) { s.begins(ulvs.TCP) },
			"UDP's first datagrams":             func(s *street) { s.begins(ulvs.UDP) },
			"TCP whose server comes back":       func(s *street) { s.comesBack(ulvs.TCP) },
			"UDP whose server comes back":       func(s *street) { s.comesBack(ulvs.UDP) },
			"UDP that the program opens later":  func(s *street) { s.opensLater(ulvs.UDP) },
			"TCP that the program opens later":  func(s *street) { s.opensLater(ulvs.TCP) },
			"TCP after --set":                   func(s *street) { s.timed(ulvs.TCP) },
			"TCP whose SYN comes again":         func(s *street) { s.again() },
			"UDP after --set":                   func(s *street) { s.timed(ulvs.UDP) },
		} {
			t.Run(fmt.Sprint(name, "/", what), func(t *testing.T) {
				s := newStreet(t, of)
				for _, proto := range []ulvs.Protocol{ulvs.TCP, ulvs.UDP} {
					s.offer(proto, portLate, "lblc")
					s.offer(proto, portEarly, "rr")
				}
				f(s)
			})
		}
	}
}

// passes has Go stand still at first, then with more of the flow in its rings, and then go on; number is the first of
// the flow that has not been sent. meanwhile comes when Go stands still first.
func (s *street) passes(w walk, number uint32, meanwhile func()) {
	s.Helper()
	const some = 5
	s.stop()
	s.send(w, number, number+some)
	s.send(s.flow(ulvs.UDP, portGate), 1, 1)
	s.send(w, number+some+1, number+2*some)
	meanwhile()
	s.proceed()
	s.reach()
	s.send(w, number+2*some+1, number+3*some)
	s.proceed()
	s.ordered(w, number+3*some)
	s.ordered(w, s.direct(w, number+3*some+1)-1)
}

// begins has a flow begin by Go, in its middle.
func (s *street) begins(proto ulvs.Protocol) {
	s.established(proto) // the program knows the server
	s.passes(s.flow(proto, portLate), 1, func() {})
}

// established returns a flow that the program forwards, and the number of its next packet.
func (s *street) established(proto ulvs.Protocol) (w walk, number uint32) {
	s.Helper()
	w = s.flow(proto, portEarly)
	if proto == ulvs.TCP {
		s.send(w, 0, 0)
		s.await(w, 0) // a client waits for the answer to its SYN
	}
	return w, s.direct(w, 1)
}

// comesBack has the flow's server be lost, and found again when packets wait.
func (s *street) comesBack(proto ulvs.Protocol) {
	w, number := s.established(proto)
	s.lose()
	number = s.waits(w, number)
	s.passes(w, number, func() {
		s.find()
		s.await(w, number-1)
	})
}

// opensLater has a flow begin while the server is lost: the program could open it when it is found.
func (s *street) opensLater(proto ulvs.Protocol) {
	other, number := s.established(proto)
	s.lose()
	number = s.waits(other, number)
	w := s.flow(proto, portEarly)
	s.stop()
	s.send(other, number, number)
	s.send(s.flow(ulvs.UDP, portGate), 1, 1)
	s.send(w, 1, 5)
	s.find()
	s.await(other, number-1)
	s.proceed()
	s.reach()
	s.send(w, 6, 10)
	s.proceed()
	s.ordered(w, 10)
	s.ordered(w, s.direct(w, 11)-1)
	s.ordered(other, number)
}

// timed has the timeouts change of a flow that the program forwards.
func (s *street) timed(proto ulvs.Protocol) {
	w, number := s.established(proto)
	s.must(s.d.SetTimeouts(ulvs.Timeouts{TCP: time.Hour, UDP: time.Hour}))
	s.passes(w, number, func() {})
}

// again has a SYN come once more, when its answer was on the way already: the client waits for nothing then.
func (s *street) again() {
	s.Helper()
	s.established(ulvs.TCP) // the program knows the server
	w := s.flow(ulvs.TCP, portEarly)
	s.send(w, 0, 0)
	s.await(w, 0)
	s.stop()
	s.send(w, 0, 0)
	s.send(s.flow(ulvs.UDP, portGate), 1, 1)
	s.send(w, 1, 5)
	s.proceed()
	s.reach()
	s.send(w, 6, 10)
	s.proceed()
	s.ordered(w, 10)
	s.ordered(w, s.direct(w, 11)-1)
}

// A flow that is under way all the time passes from Go to the program again and again, as its timeouts change,
// and no packet overtakes another one.
func TestOrderUnderWay(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("it takes a CPU that sends, and one that receives")
	}
	for name, of := range map[string]shape{"tcx": {plane: auto.TCX}, "xdp": {plane: auto.XDP, sockets: xdp.SocketsOn}} {
		for _, proto := range []ulvs.Protocol{ulvs.TCP, ulvs.UDP} {
			t.Run(fmt.Sprint(name, "/", proto), func(t *testing.T) {
				s := newStreet(t, of)
				s.offer(proto, portEarly, "rr")
				w, number := s.established(proto)
				defer s.onOneCPU()()
				const rounds, burst = 60, 50
				grown := s.counts(func() {
					for round := range rounds {
						s.must(s.d.SetTimeouts(ulvs.Timeouts{TCP: time.Duration(round+1) * time.Minute}))
						// Until it has passed to the program once more.
						for before := s.forwarded(); s.forwarded() < before+burst; number += burst {
							s.send(w, number, number+burst-1)
							s.await(w, number+burst-1)
						}
					}
				})
				s.ordered(w, number-1)
				t.Logf("%d packets, of which the program forwarded %d", number, grown["xdp_frames"])
				if n := grown["maybe_overtaken"]; n > 0 {
					t.Errorf("%d packets may have been overtaken", n)
				}
			})
		}
	}
}

// forwarded is how many packets the program has forwarded.
func (s *street) forwarded() uint64 {
	s.Helper()
	c, err := s.d.Counters()
	s.must(err)
	return c["xdp_frames"]
}

// A packet whose TCP header is cut off behind the ports follows its connection, as in the kernel, also where no wire
// has padded it.
func TestCutOffHeader(t *testing.T) {
	for _, plane := range []string{auto.TCX, auto.AFPacket} {
		t.Run(plane, func(t *testing.T) {
			s := newStreet(t, shape{plane: plane})
			s.offer(ulvs.TCP, portEarly, "rr")
			w, number := s.established(ulvs.TCP)
			const ip, header = 14, 20
			b := s.frame(w, number)[:ip+header+8]
			binary.BigEndian.PutUint16(b[ip+2:], header+8)
			binary.BigEndian.PutUint16(b[ip+10:], 0)
			binary.BigEndian.PutUint16(b[ip+10:], packet.ChecksumWith(0, b[ip:ip+header]))
			s.until("it is forwarded", func() bool {
				return s.counts(func() {
					s.must(unix.Sendto(s.fd, b, 0, &unix.SockaddrLinklayer{Ifindex: s.top.Attrs().Index}))
					time.Sleep(100 * time.Millisecond)
				})["tx_frames"] > 0
			})
		})
	}
}

// What is parked as a server's link address is not known is not lost, however long that takes.
func TestParkedIsNotLost(t *testing.T) {
	s := newStreet(t, shape{plane: auto.TCX})
	s.offer(ulvs.TCP, portEarly, "rr")
	w, number := s.established(ulvs.TCP)
	grown := s.counts(func() {
		s.lose()
		number = s.waits(w, number)
		other := s.flow(ulvs.TCP, portEarly)
		s.send(other, 0, 0)
		time.Sleep(1500 * time.Millisecond) // what is lost is taken for that by then
		s.find()
		s.await(other, 0)
	})
	if n := grown["maybe_overtaken"]; n > 0 || grown["parked"] < 2 {
		t.Errorf("%d packets may have been overtaken, of %d that were parked", n, grown["parked"])
	}
}
