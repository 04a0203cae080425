package auto_test

import (
	"encoding/binary"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane/auto"
	"github.com/ulvs/ulvs/internal/lab"
	"github.com/ulvs/ulvs/sched"
)

// portGate is of a service at which Go stands still: its packets have the frames behind them wait in Go's rings.
const portGate = 90

// gate is the scheduler of that service. Each packet that comes to it says so, and waits until it may go on.
type gate struct{ come, leave chan struct{} }

// gates is the test's that is under way.
var gates struct {
	sync.Mutex
	now  *gate
	once sync.Once
}

func (g *gate) Schedule(*sched.Request) *sched.Dest {
	g.come <- struct{}{}
	<-g.leave
	return nil
}

func (*gate) Added([]*sched.Dest, *sched.Dest)   {}
func (*gate) Removed([]*sched.Dest, *sched.Dest) {}
func (*gate) Updated([]*sched.Dest, *sched.Dest) {}

// street is a site whose client sends numbered packets, and whose first real server says in which order they come.
type street struct {
	*site
	*gate
	fd    int // of the client's
	from  uint16
	came  chan arrival
	seen  map[uint16][]uint32 // by the client's port: the numbers, as they came
	flows uint16
}

type arrival struct {
	port   uint16
	number uint32
}

// walk is a flow of the client's.
type walk struct {
	proto ulvs.Protocol
	port  uint16 // the service's
	from  uint16 // the client's
}

func newStreet(t *testing.T, of shape) *street {
	s := &street{gate: &gate{make(chan struct{}), make(chan struct{})}, came: make(chan arrival, 1<<12),
		seen: map[uint16][]uint32{}, from: 20_000}
	gates.Lock()
	gates.now = s.gate
	gates.once.Do(func() {
		if err := sched.Register("gate", func([]*sched.Dest, sched.Flags) sched.Scheduler { return gates.now }); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(gates.Unlock)
	s.site = newSite(t, of)
	if of.plane == auto.XDP {
		s.must(s.lab.TakeXDP(s.director))
	}
	s.must(s.client.Do(func() (err error) {
		s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	}))
	t.Cleanup(func() { _ = unix.Close(s.fd) })
	s.listen()
	s.must(s.d.SetSysctl("sloppy_tcp", 1))
	s.offer(ulvs.UDP, portGate, "gate")
	return s
}

// offer adds a service that has the first real server alone.
func (s *street) offer(proto ulvs.Protocol, port uint16, scheduler string) {
	s.Helper()
	k := ulvs.ServiceKey{Protocol: proto, Addr: vip(false), Port: port}
	s.must(s.d.AddService(ulvs.Service{ServiceKey: k, Scheduler: scheduler}))
	s.must(s.d.AddDestination(k, ulvs.Destination{Addr: addr(false, numServer), Port: port, Weight: 1}))
}

// server is the first one.
func (s *street) server() *lab.Host { return s.lab.Hosts()[2] }

// listen has the server tell of numbered packets.
func (s *street) listen() {
	s.Helper()
	var fd int
	s.must(s.server().Do(func() (err error) {
		all := int(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_IP)))
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 10_000})
	}))
	ended, end := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		b := make([]byte, 1<<16)
		for {
			n, _, err := unix.Recvfrom(fd, b, 0)
			select {
			case <-end:
				return
			default:
			}
			if err != nil {
				continue
			}
			p := gopacket.NewPacket(b[:n], layers.LayerTypeEthernet, gopacket.NoCopy)
			ip, _ := p.NetworkLayer().(*layers.IPv4)
			if ip == nil || !ip.DstIP.Equal(vip(false).AsSlice()) {
				continue
			}
			var data []byte
			var from uint16
			switch l := p.TransportLayer().(type) {
			case *layers.TCP:
				data, from = l.Payload, uint16(l.SrcPort)
			case *layers.UDP:
				data, from = l.Payload, uint16(l.SrcPort)
			}
			if len(data) >= 4 {
				s.came <- arrival{from, binary.BigEndian.Uint32(data)}
			}
		}
	}()
	s.Cleanup(func() {
		close(end)
		<-ended
		_ = unix.Close(fd)
	})
}

// flow returns a new one.
func (s *street) flow(proto ulvs.Protocol, port uint16) walk {
	s.flows++
	return walk{proto, port, s.from + s.flows}
}

// send sends packets of a flow with the numbers from first to last; those of TCP are segments of its
// middle, and number 0 is the SYN before them. All are of one CPU, or the bed itself would change their order.
func (s *street) send(w walk, first, last uint32) {
	s.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, one unix.CPUSet
	s.must(unix.SchedGetaffinity(0, &before))
	one.Set(0)
	if unix.SchedSetaffinity(0, &one) == nil {
		defer func() { _ = unix.SchedSetaffinity(0, &before) }()
	}
	to := &unix.SockaddrLinklayer{Ifindex: s.top.Attrs().Index}
	for number := first; number <= last; number++ {
		s.must(unix.Sendto(s.fd, s.frame(w, number), 0, to))
	}
}

// onOneCPU has all threads of the process be on one CPU, so that what they send is in the kernel in that order, and
// returns what ends that.
func (s *street) onOneCPU() (end func()) {
	s.Helper()
	var before, one unix.CPUSet
	s.must(unix.SchedGetaffinity(0, &before))
	one.Set(0)
	set := func(to *unix.CPUSet) {
		threads, err := os.ReadDir("/proc/self/task")
		s.must(err)
		for _, thread := range threads {
			if id, err := strconv.Atoi(thread.Name()); err == nil {
				_ = unix.SchedSetaffinity(id, to) // it may have ended
			}
		}
	}
	set(&one)
	return func() { set(&before) }
}

func (s *street) frame(w walk, number uint32) []byte {
	s.Helper()
	eth := &layers.Ethernet{SrcMAC: lab.MAC(numClient), DstMAC: lab.MAC(numDirector), EthernetType: layers.EthernetTypeIPv4}
	ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, SrcIP: addr(false, numClient).AsSlice(), DstIP: vip(false).AsSlice(),
		Protocol: layers.IPProtocol(w.proto)}
	data := gopacket.Payload(binary.BigEndian.AppendUint32(nil, number))
	var transport gopacket.SerializableLayer
	if w.proto == ulvs.UDP {
		l := &layers.UDP{SrcPort: layers.UDPPort(w.from), DstPort: layers.UDPPort(w.port)}
		s.must(l.SetNetworkLayerForChecksum(ip))
		transport = l
	} else {
		l := &layers.TCP{SrcPort: layers.TCPPort(w.from), DstPort: layers.TCPPort(w.port), Seq: 1000 + 4*number, Window: 1000,
			ACK: number > 0, SYN: number == 0}
		s.must(l.SetNetworkLayerForChecksum(ip))
		transport = l
	}
	b := gopacket.NewSerializeBuffer()
	s.must(gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip,
		transport, data))
	return b.Bytes()
}

// stop has Go stand still, and has frames wait behind it.
func (s *street) stop() {
	s.Helper()
	s.send(s.flow(ulvs.UDP, portGate), 1, 1)
	s.reach()
}

// reach waits until Go stands still.
func (s *street) reach() {
	s.Helper()
	select {
	case <-s.come:
	case <-time.After(patience):
		s.Fatal("Go does not come to the gate")
	}
}

// proceed has Go go on.
func (s *street) proceed() { s.leave <- struct{}{} }

// await returns when a packet has come to the server.
func (s *street) await(w walk, number uint32) {
	s.Helper()
	for !slices.Contains(s.seen[w.from], number) {
		select {
		case a := <-s.came:
			s.seen[a.port] = append(s.seen[a.port], a.number)
		case <-time.After(patience):
			s.Fatalf("packet %d of port %d has not come; those have: %v", number, w.from, s.seen[w.from])
		}
	}
}

// ordered waits for the packets of a flow up to last, and says whether some have overtaken others.
func (s *street) ordered(w walk, last uint32) {
	s.Helper()
	for number := uint32(1); number <= last; number++ {
		s.await(w, number)
	}
	overtaken := 0
	for i, number := range s.seen[w.from] {
		for _, later := range s.seen[w.from][i:] {
			if later < number {
				overtaken++
				break
			}
		}
	}
	if overtaken > 0 {
		s.Errorf("%d packets came before earlier ones: %v", overtaken, s.seen[w.from])
	}
}

// direct sends packets of a flow, from number on, until the program forwards them.
func (s *street) direct(w walk, number uint32) (next uint32) {
	s.Helper()
	s.until("the program forwards the flow", func() bool {
		grown := s.counts(func() {
			s.send(w, number, number)
			s.await(w, number)
			number++
		})
		return s.plane == "afpacket" || grown["xdp_frames"] == 1 && grown["rx_frames"] == 0
	})
	return number
}

// lose has the director not know the server's link address any more, nor get an answer; find has it know it again.
func (s *street) lose() {
	s.Helper()
	s.must(s.server().Sysctl("net.ipv4.conf.all.arp_ignore", "8"))
	for _, state := range []int{netlink.NUD_PROBE, netlink.NUD_FAILED} {
		s.tell(state)
	}
}

func (s *street) find() {
	s.Helper()
	s.must(s.server().Sysctl("net.ipv4.conf.all.arp_ignore", "1"))
	s.tell(netlink.NUD_REACHABLE)
}

func (s *street) tell(state int) {
	s.Helper()
	at, err := s.director.Netlink().LinkByName("eth0")
	s.must(err)
	n := &netlink.Neigh{LinkIndex: at.Attrs().Index, State: state, IP: addr(false, numServer).AsSlice()}
	if state != netlink.NUD_FAILED {
		n.HardwareAddr = net.HardwareAddr(lab.MAC(numServer))
	}
	s.must(s.director.Netlink().NeighSet(n))
}

// waits reports whether the packets of a flow wait for the server's link address.
func (s *street) waits(w walk, number uint32) (next uint32) {
	s.Helper()
	s.until("packets wait for the server's address", func() bool {
		grown := s.counts(func() {
			s.send(w, number, number)
			number++
			time.Sleep(10 * time.Millisecond)
		})
		return grown["parked"] > 0
	})
	return number
}
