package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
)

// pinSite is a site with three real servers and a folder for pins, and with eyes
// on what the servers get.
type pinSite struct {
	*site
	pins    string
	servers []*lab.Host
	from    *packet.Conn

	mu   sync.Mutex
	seen map[uint32]int // the packet with a number: which server got it
	more int            // got twice, or by nobody's address

	flows uint32 // of crossing, so far
}

func newPinSite(t *testing.T) *pinSite {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a BPF file system needs root")
	}
	// Before the hosts are made, which see what is mounted then.
	fs := t.TempDir()
	if err := unix.Mount("bpf", fs, "bpf", 0, ""); err != nil {
		t.Fatalf("mounting a BPF file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(fs, unix.MNT_DETACH) })
	s := &pinSite{site: newSite(t), pins: filepath.Join(fs, "ulvs"), seen: map[uint32]int{}}
	s.servers = []*lab.Host{s.server}
	for i := range 2 {
		h, err := s.lab.Add(lab.HostConfig{Name: fmt.Sprint("r", i+1), Addrs: prefixes(fmt.Sprintf("192.168.10.20%d/24", i+1))})
		if err != nil {
			t.Fatal(err)
		}
		s.servers = append(s.servers, h)
	}
	for i, h := range s.servers {
		s.watch(i, h)
	}
	s.from = socket(t, s.client)
	return s
}

// run starts a daemon that keeps its state.
func (s *pinSite) run(more ...string) *lab.Cmd {
	s.t.Helper()
	return s.start(append([]string{"--interface", "eth0", "--plane", *fast, "--pin", s.pins, "--connections", "40000"}, more...)...)
}

// watch notes which packets a server gets.
func (s *pinSite) watch(i int, h *lab.Host) { s.watchOn(i, h, "eth0", h.MAC()) }

func (s *pinSite) watchOn(i int, h *lab.Host, name string, mac net.HardwareAddr) {
	c := socketOn(s.t, h, name)
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20) })
	}
	if err != nil {
		s.t.Fatal(err)
	}
	go func() {
		buf := make([]byte, 2048)
		for {
			n, _, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if n != frameSize || net.HardwareAddr(buf[:6]).String() != mac.String() {
				continue
			}
			s.note(i, buf)
		}
	}()
}

// note notes that a server got the packet whose number is in a frame.
func (s *pinSite) note(i int, frame []byte) {
	number := binary.BigEndian.Uint32(frame[frameSize-4:])
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, twice := s.seen[number]; twice {
		s.more++
	}
	s.seen[number] = i
}

const frameSize = 14 + 20 + 20 + 4

// frame is a packet of a flow, with a number inside.
func (s *pinSite) frame(flow uint32, port uint16, flags string, number uint32) []byte {
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: net.IPv4(10, byte(flow>>16), byte(flow>>8), byte(flow)), DstIP: net.IPv4(192, 168, 10, 101)}
	tcp := &layers.TCP{SrcPort: 1000, DstPort: layers.TCPPort(port), Window: 1000,
		SYN: strings.Contains(flags, "S"), ACK: strings.Contains(flags, "A"), PSH: strings.Contains(flags, "P"), FIN: strings.Contains(flags, "F")}
	_ = tcp.SetNetworkLayerForChecksum(ip)
	eth := &layers.Ethernet{SrcMAC: s.client.MAC(), DstMAC: s.director.MAC(), EthernetType: layers.EthernetTypeIPv4}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, tcp, gopacket.Payload(binary.BigEndian.AppendUint32(nil, number))); err != nil {
		s.t.Fatal(err)
	}
	return buf.Bytes()
}

func (s *pinSite) send(frame []byte) {
	s.t.Helper()
	if _, err := s.from.WriteTo(frame, &packet.Addr{HardwareAddr: s.director.MAC()}); err != nil {
		s.t.Error(err)
	}
}

// got is where the packets from first on, n of them, arrived; it waits for the
// last to.
func (s *pinSite) got(first uint32, n int) []int {
	s.t.Helper()
	list := make([]int, n)
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		missing := 0
		s.mu.Lock()
		for i := range list {
			at, ok := s.seen[first+uint32(i)]
			if !ok {
				missing, at = missing+1, -1
			}
			list[i] = at
		}
		s.mu.Unlock()
		if missing == 0 {
			return list
		}
		if time.Since(begin) > patience {
			s.t.Errorf("%d of %d packets did not arrive", missing, n)
			return list
		}
	}
}

func (s *pinSite) output(line string) string {
	s.t.Helper()
	out, code := s.ulvs("", strings.Fields(line)...)
	if code != 0 {
		s.t.Fatalf("%s: %s", line, out)
	}
	return out
}
