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
	return s.start(append([]string{"--interface", "eth0", "--plane", "xdp", "--pin", s.pins, "--connections", "40000"}, more...)...)
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
			number := binary.BigEndian.Uint32(buf[frameSize-4:])
			s.mu.Lock()
			if _, twice := s.seen[number]; twice {
				s.more++
			}
			s.seen[number] = i
			s.mu.Unlock()
		}
	}()
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
		if time.Since(begin) > 5*time.Second {
			s.t.Errorf("%d of %d packets did not arrive", missing, n)
			return list
		}
	}
}

func (s *pinSite) commands(text string) {
	s.t.Helper()
	for line := range strings.Lines(strings.TrimSpace(text)) {
		if out, code := s.ulvs("", strings.Fields(line)...); code != 0 || out != "" {
			s.t.Fatalf("%s: %s", line, out)
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

// A daemon that is killed in the middle of ten thousand connections loses none of
// their packets: not while there is none, and not when the next one takes over.
// What clients, services and schedulers had is as it was.
func TestKilled(t *testing.T) {
	s := newPinSite(t)
	killed := s.run()
	s.commands(`
		ipvsadm -A -t 192.168.10.101:80 -s wrr -p 300
		ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.200 -g -w 3
		ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.201 -g -w 2
		ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.202 -g -w 1
		ipvsadm -A -t 192.168.10.101:81 -s rr
		ipvsadm -a -t 192.168.10.101:81 -r 192.168.10.200 -g
		ipvsadm -a -t 192.168.10.101:81 -r 192.168.10.201 -g
		ipvsadm -a -t 192.168.10.101:81 -r 192.168.10.202 -g
		ipvsadm -A -t 192.168.10.101:82 -s rr
		ipvsadm -a -t 192.168.10.101:82 -r 192.168.10.201 -g
		ipvsadm -d -t 192.168.10.101:82 -r 192.168.10.201
		ipvsadm -D -t 192.168.10.101:82
		ipvsadm --set 600 100 200
		iptables -t mangle -A PREROUTING -d 192.168.10.102 -p tcp --dport 443 -j MARK --set-mark 10
		ipvsadm -A -f 10 -s rr -p 60
	`)
	if out, code := s.ulvs("", "ulvs", "sysctl", "net.ipv4.vs.expire_quiescent_template=1"); code != 0 {
		t.Fatal(out)
	}
	const flows = 10000
	number := uint32(1)
	for flow := range uint32(flows) {
		s.send(s.frame(flow, 80, "S", number))
		s.send(s.frame(flow, 80, "A", number+1))
		number += 2
		if flow%100 == 99 {
			s.got(number-1, 1) // the slow path is not what is tried here
		}
	}
	server := make([]int, flows)
	for i, at := range s.got(1, 2*flows) {
		if i%2 == 0 {
			server[i/2] = at
		} else if server[i/2] != at {
			t.Fatalf("flow %d went to two servers", i/2)
		}
	}
	s.send(s.frame(1, 81, "S", number))
	turn := s.got(number, 1)[0]
	number++
	before := s.output("ipvsadm -Sn") + s.output("iptables -t mangle -S") + s.output("ipvsadm -L --timeout") + s.output("ulvs sysctl")
	columns := s.output("ipvsadm -Ln -t 192.168.10.101:80")

	// Under load, from here to the end.
	const pace = 50 * time.Microsecond
	first := number
	end, sent := make(chan bool), make(chan uint32)
	frames := make([][]byte, flows)
	for flow := range frames {
		frames[flow] = s.frame(uint32(flow), 80, "PA", 0)
	}
	go func() {
		n := first
		defer func() { sent <- n }()
		due := time.Now()
		for {
			for _, f := range frames {
				select {
				case <-end:
					return
				default:
				}
				// The number is not part of the checksum that anybody looks at.
				binary.BigEndian.PutUint32(f[frameSize-4:], n)
				s.send(f)
				n++
				if due = due.Add(pace); time.Until(due) > time.Millisecond {
					time.Sleep(time.Until(due))
				}
			}
		}
	}()
	time.Sleep(time.Second)
	_ = killed.Process.Kill()
	_ = killed.Wait()
	time.Sleep(time.Second)
	began := time.Now()
	next := s.run()
	t.Logf("the next daemon was ready after %v: %s", time.Since(began), next.Stderr)
	began = time.Now()
	s.send(s.frame(2, 81, "S", 1<<30))
	if at := s.got(1<<30, 1)[0]; at != (turn+2)%3 { // newest first: 202, 201, 200
		t.Errorf("after server %d round robin chose %d", turn, at)
	}
	t.Logf("a new connection was served after %v", time.Since(began))
	time.Sleep(time.Second)
	close(end)
	number = <-sent
	for i, at := range s.got(first, int(number-first)) {
		if want := server[i%flows]; at != want {
			t.Fatalf("packet %d, of flow %d, went to server %d, not %d", i, i%flows, at, want)
		}
	}
	if s.more > 0 {
		t.Errorf("%d packets came twice", s.more)
	}
	t.Logf("%d packets of %d flows, 20,000 a second", number-first, flows)

	after := s.output("ipvsadm -Sn") + s.output("iptables -t mangle -S") + s.output("ipvsadm -L --timeout") + s.output("ulvs sysctl")
	if before != after {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if now := s.output("ipvsadm -Ln -t 192.168.10.101:80"); now != columns {
		t.Errorf("before:\n%s\nafter:\n%s", columns, now)
	}
	// A client that was there before stays with its server, on its next connection.
	for flow := range uint32(30) {
		f := s.frame(flow, 80, "S", 1<<30+1+flow)
		binary.BigEndian.PutUint16(f[34:], 2000)
		s.send(f)
		if at := s.got(1<<30+1+flow, 1)[0]; at != server[flow] {
			t.Errorf("client %d was with server %d, and is with %d", flow, server[flow], at)
		}
	}
	if status := s.status(); status["xdp_frames"] != int(number-first) {
		t.Errorf("%d packets were forwarded by XDP, of %d", status["xdp_frames"], number-first)
	}
	want := fmt.Sprintf("%d %d 0", flows+30, 2*flows+int(number-first)+30)
	for begin := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		words := strings.Fields(strings.Split(s.output("ipvsadm -Ln --stats --exact -t 192.168.10.101:80"), "\n")[2])
		if strings.Join(words[2:5], " ") == want {
			break
		}
		if time.Since(begin) > 10*time.Second {
			t.Errorf("counted connections, packets and packets out: %v, not %s", words, want)
			break
		}
	}

	// One that is ended goes on forwarding too, until it is detached.
	s.stop(next)
	s.send(s.frame(7, 80, "PA", 1<<30+100))
	if at := s.got(1<<30+100, 1)[0]; at != server[7] {
		t.Errorf("after the daemon's end, server %d", at)
	}
	if out, code := s.ulvs("", "ulvs", "detach", "--pin", s.pins); code != 0 || out != "" {
		t.Errorf("detach: %s", out)
	}
	if left, _ := os.ReadDir(s.pins); len(left) > 0 {
		t.Errorf("detach left %v", left)
	}
	s.send(s.frame(7, 80, "PA", 1<<30+101))
	time.Sleep(200 * time.Millisecond)
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, ok := s.seen[1<<30+101]; ok {
		t.Errorf("after detach, server %d", at)
	}
}
