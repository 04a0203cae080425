package hostmark_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/fwmark"
	"github.com/ulvs/ulvs/internal/lab"
	"github.com/ulvs/ulvs/packet"
)

// wire is a client and a director, and datagrams between them whose marks the director's
// kernel tells.
type wire struct {
	client, director *lab.Host
	senders          []sender
	receivers        map[uint16]*net.UDPConn
	local            map[netip.Addr]bool
}

type sender struct {
	*net.UDPConn
	from netip.AddrPort
	tos  byte
}

// Local makes a wire a fwmark.Host.
func (w *wire) Local(a netip.Addr) bool { return w.local[a] }

var destPorts = []uint16{80, 81, 443}

// newWire has three addresses of the client's and two of the director's, of one family.
func newWire(t *testing.T, ipv6 bool) *wire {
	t.Helper()
	prefix, bits, network := "10.9.0.", 24, "udp4"
	if ipv6 {
		prefix, bits, network = "fd09::", 64, "udp6"
	}
	addr := func(n int) netip.Addr { return netip.MustParseAddr(prefix + fmt.Sprint(n)) }
	l, err := lab.New(lab.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &wire{receivers: map[uint16]*net.UDPConn{}, local: map[netip.Addr]bool{addr(8): true, addr(9): true}}
	add := func(name string, mac uint32, n ...int) *lab.Host {
		c := lab.HostConfig{Name: name, MAC: lab.MAC(mac), Sysctls: [][2]string{{"-net.ipv6.conf.default.accept_dad", "0"}}}
		for _, i := range n {
			c.Addrs = append(c.Addrs, netip.PrefixFrom(addr(i), bits))
		}
		h, err := l.Add(c)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	w.client, w.director = add("client", 1, 1, 2, 3), add("director", 2, 8, 9)
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	set := func(c *net.UDPConn, level, option, value int) {
		t.Helper()
		raw, err := c.SyscallConn()
		ok(err)
		var failed error
		ok(raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, option, value) }))
		if failed == unix.ENOPROTOOPT {
			t.Skip("needs SO_RCVMARK: Linux 5.19")
		}
		ok(failed)
	}
	ok(w.director.Do(func() error {
		for _, p := range destPorts {
			c, err := net.ListenUDP(network, &net.UDPAddr{Port: int(p)})
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			set(c, unix.SOL_SOCKET, unix.SO_RCVMARK, 1)
			w.receivers[p] = c
		}
		return nil
	}))
	ok(w.client.Do(func() error {
		for n := 1; n <= 3; n++ {
			for i, port := range []uint16{79, 80, 8080} {
				from := netip.AddrPortFrom(addr(n), port)
				c, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(from))
				if err != nil {
					return err
				}
				t.Cleanup(func() { c.Close() })
				tos := []byte{0, 0x10, 0x28}[(n+i)%3]
				if ipv6 {
					set(c, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, int(tos))
				} else {
					set(c, unix.IPPROTO_IP, unix.IP_TOS, int(tos))
				}
				w.senders = append(w.senders, sender{c, from, tos})
			}
		}
		return nil
	}))
	return w
}

// mark sends a datagram and returns the mark with which the director's kernel gets it.
func (w *wire) mark(t *testing.T, s *sender, to netip.AddrPort) uint32 {
	t.Helper()
	if _, err := s.WriteToUDPAddrPort([]byte("x"), to); err != nil {
		t.Fatal(err)
	}
	c := w.receivers[to.Port()]
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b, oob := make([]byte, 10), make([]byte, 200)
	_, n, _, from, err := c.ReadMsgUDPAddrPort(b, oob)
	if err != nil || from.Port() != s.from.Port() || from.Addr().Unmap() != s.from.Addr() {
		t.Fatalf("%v to %v: got one from %v, %v", s.from, to, from, err)
	}
	list, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_MARK {
			return binary.NativeEndian.Uint32(m.Data)
		}
	}
	t.Fatal("the kernel tells no mark")
	return 0
}

// input is the same datagram as ulvs sees it.
func (w *wire) input(s *sender, to netip.AddrPort) *fwmark.Input {
	frame := make([]byte, 14, 54)
	copy(frame[6:], w.client.MAC())
	p := &packet.Packet{Kind: packet.UDP, Proto: packet.ProtoUDP, L3: 14, Is6: to.Addr().Is6(),
		Flow: packet.NewFlow(packet.ProtoUDP, s.from, to)}
	if p.Is6 {
		frame = append(frame, 0x60|s.tos>>4, s.tos<<4)
	} else {
		frame = append(frame, 0x45, s.tos)
	}
	return &fwmark.Input{Packet: p, Frame: frame, In: "eth0", Host: w}
}

// randomTable is the lines of a mangle table, whose chains jump without a circle.
func randomTable(g *rand.Rand, ipv6 bool, rules int) string {
	pick := func(list ...string) string { return list[g.IntN(len(list))] }
	not := func() string { return pick("", "", "! ") }
	prefix, bits := "10.9.0.", []string{"", "/31", "/30", "/255.0.0.1"}
	if ipv6 {
		prefix, bits = "fd09::", []string{"", "/127", "/126", "/ffff::1"}
	}
	chains := []string{"PREROUTING", "INPUT", "A", "B", "C", "D"}
	text := "*mangle\n:A - [0:0]\n:B - [0:0]\n:C - [0:0]\n:D - [0:0]\n"
	for range rules {
		n := max(0, g.IntN(len(chains)+2)-2)
		text += "-A " + chains[n] + " "
		if g.IntN(3) == 0 {
			text += fmt.Sprintf("%s-s %s%d%s ", not(), prefix, 1+g.IntN(3), pick(bits...))
		}
		if g.IntN(3) == 0 {
			text += fmt.Sprintf("%s-d %s%d%s ", not(), prefix, 8+g.IntN(2), pick(bits...))
		}
		if g.IntN(5) == 0 {
			text += not() + "-i " + pick("eth0", "eth+", "lo", "wlan0") + " "
		}
		if g.IntN(2) == 0 {
			text += "-p udp "
			switch g.IntN(4) {
			case 0:
				text += not() + "--dport " + pick("80", "80:81", "443", "81:") + " "
			case 1:
				text += not() + "--sport " + pick("79", "79:80", "8080", ":80") + " "
			case 2:
				text += "-m multiport " + not() + pick("--dports ", "--sports ", "--ports ") + pick("80,443", "79:80", "81,8080") + " "
			}
		} else if g.IntN(5) == 0 {
			text += not() + "-p tcp "
		}
		switch g.IntN(10) {
		case 0:
			text += "-m mac " + not() + "--mac-source " + pick(lab.MAC(1).String(), lab.MAC(7).String()) + " "
		case 1:
			text += pick("-m tos "+not()+"--tos 0x10", "-m dscp "+not()+"--dscp 0x0a", "-m tos --tos 0x10/0x3f") + " "
		case 2:
			text += fmt.Sprintf("-m iprange %s--src-range %s%d-%s3 ", not(), prefix, 1+g.IntN(3), prefix)
		case 3:
			text += "-m addrtype " + not() + pick("--dst-type LOCAL ", "--src-type LOCAL ", "--src-type MULTICAST ")
		case 4, 5:
			text += fmt.Sprintf("-m mark %s--mark %d/%d ", not(), g.IntN(4), 1+g.IntN(3))
		}
		switch k := g.IntN(10); {
		case k < 3 && n < len(chains)-1:
			first := max(n, 1) + 1
			text += pick("-j ", "-j ", "-g ") + chains[first+g.IntN(len(chains)-first)]
		case k == 3:
			text += "-j " + pick("ACCEPT", "RETURN")
		case k == 4 && n > 1:
			text += "-j RETURN"
		default:
			text += "-j MARK " + pick("--set-mark ", "--or-mark ", "--xor-mark ", "--and-mark ") + fmt.Sprint(1+g.IntN(7))
		}
		text += "\n"
	}
	return text + "COMMIT\n"
}

// Random tables with chains, given to the real iptables and to fwmark, and followed: each
// datagram has the mark that the kernel gives it.
func TestKernelMarks(t *testing.T) {
	for i, program := range []string{"iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"} {
		t.Run(program, func(t *testing.T) {
			ipv6 := strings.HasPrefix(program, "ip6")
			newHost(t, program)
			w := newWire(t, ipv6)
			g := rand.New(rand.NewPCG(11, uint64(i)))
			compared, marked := 0, 0
			for range 20 {
				text := randomTable(g, ipv6, 30)
				run(t, w.director, program+"-restore <<'EOF'\n"+text+"EOF")
				typed := fwmark.NewTable(ipv6)
				if err := typed.Restore(text); err != nil {
					t.Fatalf("%v\n%s", err, text)
				}
				r := read(t, w.director)
				if len(r.Unfollowed) > 0 {
					t.Fatalf("not followed: %q\n%s", r.Unfollowed, text)
				}
				sets := map[string]*fwmark.Set{
					"typed":    fwmark.Compile(typed.Rules()),
					"followed": fwmark.Compile(append(r.V4, r.V6...)),
				}
				for i := range w.senders {
					for a := range w.local {
						to := netip.AddrPortFrom(a, destPorts[g.IntN(len(destPorts))])
						want := w.mark(t, &w.senders[i], to)
						for how, set := range sets {
							if got := set.Mark(w.input(&w.senders[i], to)); got != want {
								t.Fatalf("%s: %v to %v, type of service %#x: mark %d, the kernel's is %d\n%s",
									how, w.senders[i].from, to, w.senders[i].tos, got, want, text)
							}
						}
						if compared++; want != 0 {
							marked++
						}
					}
				}
			}
			t.Logf("%d datagrams, %d with a mark", compared, marked)
			if marked < compared/4 {
				t.Error("too few have marks: the test compares too little")
			}
		})
	}
}
