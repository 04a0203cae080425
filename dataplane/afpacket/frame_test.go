package afpacket

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
)

// udp is a frame from the client to the virtual address by way of dst, with
// the tags given and a payload.
func udp(dst net.HardwareAddr, payload []byte, tags ...uint16) []byte {
	f := append(append([]byte(nil), dst...), macOf(client)...)
	for _, tci := range tags {
		f = append(f, 0x81, 0x00, byte(tci>>8), byte(tci))
	}
	f = append(f, 0x08, 0x00)
	ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 8, 0, 1}
	ip = append(ip, virtual4.AsSlice()...)
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(payload)))
	binary.BigEndian.PutUint16(ip[10:], sum(ip))
	f = append(f, ip...)
	f = append(f, 0x10, 0, 0, 53, byte((8+len(payload))>>8), byte(8+len(payload)), 0, 0)
	return append(f, payload...)
}

// unsegmented is a frame of TCP as the client's stack leaves it to its
// interface: to be segmented, without a checksum.
func unsegmented(payload []byte, tags ...uint16) ([]byte, dataplane.Offload) {
	f := udp(macOf(director), append(make([]byte, 12), payload...), tags...)
	at := macLen + 4*len(tags)
	f[at+9] = unix.IPPROTO_TCP
	f[at+10], f[at+11] = 0, 0
	binary.BigEndian.PutUint16(f[at+10:], sum(f[at:at+20]))
	f[at+32] = 5 << 4
	return f, dataplane.Offload{Flags: dataplane.NeedsChecksum, GSOType: 1, GSOSize: 1400,
		HdrLen: uint16(at + 40), CsumStart: uint16(at + 20), CsumOffset: 16}
}

func sum(b []byte) uint16 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

// injector sends frames out of host's interface as they are.
func (l *lab) injector(host int, name string) func(frame []byte, o dataplane.Offload) {
	var s *sender
	index := l.ifindex(host, name)
	var c counters
	l.in(host, func() {
		var err error
		s, err = newSender(index, &c)
		l.must(err)
	})
	l.t.Cleanup(s.close)
	return func(frame []byte, o dataplane.Offload) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.put(frame, o, 0, nil)
		s.flush()
	}
}

func (h *toHop) frame(t *testing.T, i int) ([]byte, dataplane.Offload) {
	t.Helper()
	eventually(t, fmt.Sprintf("frame %d", i), func() bool { return h.count() > i })
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.frames[i], h.offload[i]
}

// Tags stay on frames that leave by the interface that they came in on, and
// offsets count them; they go when a frame leaves by another.
func TestTags(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	// A second link from the director straight to the server.
	l.in(director, func() {
		l.ip("link add eth1 type veth peer name eth1s index 200")
		l.ip("link set eth1 up")
		l.move("eth1s", server)
	})
	l.in(server, func() { l.ip("link set eth1s up") })
	far := &toHop{keep: true}
	l.start(server, far, Options{Interfaces: []string{"eth0"}, MAC: dataplane.MAC{2, 9, 9, 9, 9, 9}})
	farther := &toHop{keep: true}
	l.start(server, farther, Options{Interfaces: []string{"eth1s"}, MAC: dataplane.MAC{2, 9, 9, 9, 9, 9}})
	near := &toHop{keep: true, hop: l.hop(server)}
	l.start(director, near, Options{})
	inject := l.injector(client, "eth0")

	small, large := bytes.Repeat([]byte("s"), 100), bytes.Repeat([]byte("L"), 20000)
	tcp := func(tags ...uint16) ([]byte, dataplane.Offload) { return unsegmented(large, tags...) }
	n := 0
	for _, tags := range [][]uint16{nil, {5}, {0xe005}, {5, 6}} {
		for _, big := range []bool{false, true} {
			var frame []byte
			var o dataplane.Offload
			if big {
				frame, o = tcp(tags...)
			} else {
				frame = udp(macOf(director), small, tags...)
			}
			if big && len(tags) > 1 {
				continue // the kernel segments no frame with two tags here
			}
			inject(frame, o)
			for where, h := range map[string]*toHop{"director": near, "server": far} {
				got, off := h.frame(t, n)
				want := bytes.Clone(frame)
				if where == "server" {
					copy(want, macOf(server))
					copy(want[6:], macOf(director))
				}
				if !bytes.Equal(got, want) {
					t.Fatalf("%s, tags %x, large %v: got % x of %d bytes, want % x of %d", where, tags, big, got[:40], len(got), want[:40], len(want))
				}
				off.HdrLen, o.HdrLen = 0, 0 // a hint
				if off.Flags &= dataplane.NeedsChecksum; off != o {
					t.Errorf("%s, tags %x, large %v: offload %+v, want %+v", where, tags, big, off, o)
				}
			}
			n++
		}
	}
	// The other way out.
	other := l.link(server)
	other.Ifindex, other.Dst = l.ifindex(director, "eth1"), dataplane.MAC{2, 9, 9, 9, 9, 9}
	near.hop.Set(other)
	for i, tags := range [][]uint16{{5}, {5, 6}, nil} {
		frame, o := tcp(tags[:min(1, len(tags))]...)
		if len(tags) > 1 {
			frame, o = udp(macOf(director), small, tags...), dataplane.Offload{}
		}
		inject(frame, o)
		got, off := farther.frame(t, i)
		want := append(append(append([]byte(nil), other.Dst[:]...), other.Src[:]...), frame[12+4*len(tags):]...)
		if !bytes.Equal(got, want) {
			t.Fatalf("other interface, tags %x: got % x, want % x", tags, got[:40], want[:40])
		}
		if o.Flags != 0 && int(off.CsumStart) != macLen+20 {
			t.Errorf("other interface, tags %x: checksum starts at %d", tags, off.CsumStart)
		}
	}
}

// Frames for a hop that is being resolved wait, and go out in their order,
// also when more come while they are sent.
func TestParked(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	hop := dataplane.NewNextHop(netip.Addr{}, nil)
	link := l.link(server)
	hop.Set(dataplane.Neighbor{State: dataplane.HopResolving, Ifindex: link.Ifindex})
	near, far := &toHop{hop: hop}, &toHop{keep: true}
	p, _ := l.start(director, near, Options{})
	l.start(server, far, Options{})
	inject := l.injector(client, "eth0")
	const waiting, all = 30, dataplane.ParkLimit // more, and the hop gives up the oldest if Set comes late
	for i := range waiting {
		inject(udp(macOf(director), []byte{byte(i >> 8), byte(i)}), dataplane.Offload{})
	}
	eventually(t, "all wait", func() bool { return p.Counters()["parked"] == waiting })
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := waiting; i < all; i++ {
			inject(udp(macOf(director), []byte{byte(i >> 8), byte(i)}), dataplane.Offload{})
		}
	})
	hop.Set(link)
	wg.Wait()
	for i := range all {
		f, _ := far.frame(t, i)
		if got := int(binary.BigEndian.Uint16(f[42:])); got != i {
			t.Fatalf("frame %d came when %d was due", got, i)
		}
	}
	if hop.Lost() != 0 {
		t.Errorf("%d lost", hop.Lost())
	}
}

// recorder counts every frame that it is shown, by destination.
type recorder struct {
	mu    sync.Mutex
	kinds map[string]int
	now   []time.Duration
}

func (r *recorder) Handle(now time.Duration, batch []dataplane.Frame) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = append(r.now, now)
	for _, f := range batch {
		_, etherType := tags(f.Data)
		r.kinds[fmt.Sprintf("%s %04x", net.HardwareAddr(f.Data[:6]), etherType)]++
	}
}

// Only frames to the interface, to Options.MAC, and questions for link
// addresses are shown to the handler.
func TestWhatIsOurs(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	extra := dataplane.MAC{0, 0, 0x5e, 0, 1, 7}
	r := &recorder{kinds: make(map[string]int)}
	p, _ := l.start(director, r, Options{MAC: extra})
	inject := l.injector(client, "eth0")
	broadcast := net.HardwareAddr{255, 255, 255, 255, 255, 255}
	arp := append(append(append([]byte(nil), broadcast...), macOf(client)...), 0x08, 0x06)
	arp = append(arp, make([]byte, 46)...)
	solicit := append(append([]byte{0x33, 0x33, 0xff, 0, 0, 9}, macOf(client)...), 0x86, 0xdd)
	solicit = append(solicit, make([]byte, 64)...)
	solicit[macLen], solicit[macLen+5], solicit[macLen+6], solicit[macLen+40] = 0x60, 24, 58, 135
	router := bytes.Clone(solicit)
	router[5], router[macLen+40] = 10, 133
	stranger := net.HardwareAddr{2, 7, 7, 7, 7, 7}
	for _, f := range [][]byte{
		udp(broadcast, nil), udp(net.HardwareAddr{1, 0, 0x5e, 1, 1, 1}, nil), udp(stranger, nil), router,
		arp, solicit, udp(extra[:], nil), udp(macOf(director), nil),
	} {
		inject(f, dataplane.Offload{})
	}
	want := []string{broadcast.String() + " 0806", "33:33:ff:00:00:09 86dd", net.HardwareAddr(extra[:]).String() + " 0800", macOf(director).String() + " 0800"}
	eventually(t, "all of ours", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.kinds[want[3]] > 0
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range want {
		if r.kinds[k] != 1 {
			t.Errorf("%s was shown %d times", k, r.kinds[k])
		}
	}
	for k := range r.kinds {
		if strings.HasSuffix(k, " 0800") && k != want[2] && k != want[3] || k == "33:33:ff:00:00:0a 86dd" {
			t.Errorf("%s was shown", k)
		}
	}
	if p.Counters()["rx_not_ours"] == 0 {
		t.Error("nothing was counted as not ours")
	}
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	if d := time.Duration(ts.Nano()) - r.now[0]; d < 0 || d > time.Minute {
		t.Errorf("now is %v away from CLOCK_MONOTONIC", d)
	}
}

// A frame that fits no link is lost, and counted.
func TestTooBig(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	narrow := l.link(server)
	narrow.MTU = 1000
	near := &toHop{hop: dataplane.NewNextHop(netip.Addr{}, nil)}
	near.hop.Set(narrow)
	p, _ := l.start(director, near, Options{})
	inject := l.injector(client, "eth0")
	inject(udp(macOf(director), make([]byte, 973)), dataplane.Offload{})
	inject(udp(macOf(director), make([]byte, 972)), dataplane.Offload{})
	eventually(t, "one sent, one lost", func() bool {
		n := p.Counters()
		return n["tx_too_big"] == 1 && n["tx_frames"] == 1
	})
	near.hop.Set(dataplane.Neighbor{State: dataplane.HopLocal})
	inject(udp(macOf(director), nil), dataplane.Offload{})
	eventually(t, "a frame to ourselves is lost", func() bool { return p.Counters()["tx_no_hop"] == 1 })
	nowhere := l.link(server)
	nowhere.Ifindex = 999
	near.hop.Set(nowhere)
	inject(udp(macOf(director), nil), dataplane.Offload{})
	eventually(t, "a frame to no interface is lost", func() bool { return p.Counters()["tx_no_sender"] == 1 })
}

// logged is a log that can be read while it is written.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *logged) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *logged) has(text string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Contains(j.text.String(), text)
}

// A plane goes on after its interface was down, and after it was removed and made anew, of
// another number and address: with it, and with its claims.
func TestInterfaceDownAndRemoved(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	near := &toHop{}
	var log logged
	p, stop := l.start(director, near, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	l.must(p.Claim(both(80)))
	inject := l.injector(client, "eth0")
	arrives := func(what string, to net.HardwareAddr) {
		before := near.count()
		eventually(t, what, func() bool {
			inject(udp(to, nil), dataplane.Offload{})
			return near.count() > before
		})
	}
	arrives("a frame", macOf(director))
	l.in(director, func() { l.ip("link set eth0 down") })
	eventually(t, "the plane knows", func() bool { return log.has("interface is down; going on when it is up again") })
	l.in(director, func() { l.ip("link set eth0 up") })
	arrives("frames again", macOf(director))
	eventually(t, "the plane says so", func() bool { return log.has(`level=INFO msg="interface is up again" interface=eth0`) })
	l.in(director, func() { l.ip("link del eth0") })
	eventually(t, "the plane knows", func() bool { return log.has("interface was removed: going on without, and with the next one of the name that was given") })
	other := macOf(9)
	l.in(director, func() {
		l.ip("link add eth0 type veth peer name p9 index 109")
		l.move("p9", 0)
		l.ip("link set eth0 address " + other.String())
		l.ip("link set eth0 up")
	})
	l.in(0, func() { l.ip("link set p9 master br0 up") })
	arrives("frames by the new one", other)
	if tables := l.nft(director, "list tables"); tables != "table netdev ulvs-eth0\n" {
		t.Errorf("with the new one: %q", tables)
	}
	l.must(stop())
	if tables := l.nft(director, "list tables"); tables != "" {
		t.Errorf("after Run: %q", tables)
	}
}
