package planes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs/bench/wire"
	"github.com/ulvs/ulvs/bench/wire/rounds"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// peer is what the kernel has for what a director does.
type peer struct {
	name  string
	setUp func(*bed) error
}

var (
	forwarding = peer{"forwarding", (*bed).forward}
	nftables   = peer{"nftables", (*bed).nftables}
	ipvs       = peer{"ipvs", (*bed).ipvs}
)

// errAbsent is wrapped where this machine does not have a peer.
var errAbsent = errors.New("not here")

// peers are those that carry packets of connections.
func peers(b testing.TB, flows uint32) (list []rounds.Contender) {
	for _, p := range []peer{forwarding, nftables, ipvs} {
		if c, ok := p.contender(b, established(flows), flows); ok {
			list = append(list, c)
		}
	}
	return list
}

// newPeers are those that know what a new connection is.
func newPeers(b testing.TB, traffic func(*wire.Traffic)) (list []rounds.Contender) {
	if c, ok := ipvs.contender(b, traffic, 0); ok {
		list = append(list, c)
	}
	return list
}

func (p peer) contender(b testing.TB, traffic func(*wire.Traffic), flows uint32) (c rounds.Contender, ok bool) {
	b.Helper()
	s := newBed(b)
	s.must(s.at.GRO())
	if err := p.setUp(s); errors.Is(err, errAbsent) {
		rounds.Absent(p.name, err)
		return c, false
	} else if err != nil {
		b.Fatalf("%s: %v", p.name, err)
	}
	g := s.generate(traffic)
	c = rounds.Contender{
		Name: p.name, Generators: []*wire.Generator{g}, Sinks: []*wire.Sink{s.sink(wire.SinkOptions{Stack: true})}, Room: room, Packets: slowPackets,
	}
	if p.name == ipvs.name && flows > 0 { // every connection has to be made once
		each := s.generate(func(t *wire.Traffic) { traffic(t); t.Random = false })
		_, err := each.Run(uint64(flows))
		s.must(err)
	}
	return c, true
}

// router has the director's host forward packets, by the way that the test set up.
func (s *bed) router() error {
	for _, name := range []string{"all.rp_filter", "default.rp_filter", s.at.Name + ".rp_filter", "all.send_redirects", s.at.Name + ".send_redirects"} {
		if err := s.at.Space.Sysctl("net.ipv4.conf."+name, "0"); err != nil {
			return err
		}
	}
	return s.at.Space.Sysctl("net.ipv4.ip_forward", "1")
}

// forward: a route to the virtual address by a real server, whose link address is
// known.
func (s *bed) forward() error {
	if err := s.router(); err != nil {
		return err
	}
	return s.at.Space.Netlink().RouteAdd(&netlink.Route{LinkIndex: s.at.Index, Dst: host(vip.Addr().AsSlice()), Gw: servers[0].AsSlice()})
}

func host(ip net.IP) *net.IPNet { return &net.IPNet{IP: ip, Mask: net.CIDRMask(32, 32)} }

// nftables: a rule at the netdev ingress hook writes the link addresses and sends
// the packet back out. It has one real server, and knows no connections.
func (s *bed) nftables() error {
	rules := fmt.Sprintf(`table netdev bench {
	chain ingress {
		type filter hook ingress device %[1]s priority 0;
		ip daddr %[2]v tcp dport %[3]d ether saddr set %[4]v ether daddr set %[5]v fwd to %[1]s
	}
}
`, s.at.Name, vip.Addr(), vip.Port(), s.at.MAC, serverOf(0))
	return s.command(rules, "nft", "-f", "-")
}

// ipvs: kernel IPVS in direct routing, with as many buckets as the module was loaded
// with (conn_tab_bits: 12 unless somebody said otherwise).
func (s *bed) ipvs() error {
	err := s.at.Space.Do(func() error {
		_, err := os.Stat("/proc/thread-self/net/ip_vs")
		return err
	})
	if err != nil {
		var u unix.Utsname
		_ = unix.Uname(&u) // cannot fail
		return fmt.Errorf("%w: Linux %s has no IPVS, or its module is not loaded (modprobe ip_vs ip_vs_rr)", errAbsent, unix.ByteSliceToString(u.Release[:]))
	}
	if err := s.router(); err != nil {
		return err
	}
	// IPVS takes what is for the host itself, and connections that it saw no SYN of if
	// it is told to.
	nl := s.at.Space.Netlink()
	link, err := nl.LinkByName(s.at.Name)
	if err != nil {
		return err
	}
	if err := nl.AddrAdd(link, &netlink.Addr{IPNet: host(vip.Addr().AsSlice())}); err != nil {
		return err
	}
	if err := s.at.Space.Sysctl("net.ipv4.vs.sloppy_tcp", "1"); err != nil {
		return err
	}
	if err := s.command("", "ipvsadm", "-A", "-t", vip.String(), "-s", "rr"); err != nil {
		return err
	}
	for _, a := range servers {
		if err := s.command("", "ipvsadm", "-a", "-t", vip.String(), "-r", a.String(), "-g"); err != nil {
			return err
		}
	}
	return nil
}

// command runs a program in the director's namespace.
func (s *bed) command(stdin, name string, args ...string) error {
	if _, err := exec.LookPath(name); err != nil {
		return fmt.Errorf("%w: the program %s is not installed", errAbsent, name)
	}
	ctx, end := context.WithTimeout(context.Background(), time.Minute)
	defer end()
	c := s.at.Space.Command(ctx, name, args...)
	c.Stdin = strings.NewReader(stdin)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
