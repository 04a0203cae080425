package conformance

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/ulvs/ulvs/internal/lab"
)

// The addresses of the recordings; hosts have the same number in both families.
const (
	clientNumber   = 1
	directorNumber = 100
	serverNumber   = 200 // of r0
	serverCount    = 4
)

// behindClient are the routes to the networks whose clients live behind the
// client.
var behindClient = []lab.Route{
	{Dst: netip.MustParsePrefix("10.0.0.0/8"), Via: addr4(clientNumber)},
	{Dst: netip.MustParsePrefix("fd01::/16"), Via: addr6(clientNumber)},
	// Odd ones, which Linux takes all the same.
	{Dst: netip.MustParsePrefix("240.0.0.0/4"), Via: addr4(clientNumber)},
	{Dst: netip.MustParsePrefix("0.0.0.0/8"), Via: addr4(clientNumber)},
}

func addr4(n int) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, 10, byte(n)}) }

// addr6 writes n in decimal, as in fd00:10::200.
func addr6(n int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd00:10::%d", n)) }

func mac(n int) net.HardwareAddr { return lab.MAC(uint32(0x0a00 + n)) }

// stage is the network that a scenario plays in.
type stage struct {
	lab      *lab.Lab
	client   *lab.Host
	director *lab.Host
	servers  []*lab.Host
}

func server(i int) string { return fmt.Sprintf("r%d", i) }

// newStage sets a stage up. The vips are addresses of the director's interface.
func newStage(vips []netip.Addr) (*stage, error) {
	l, err := lab.New(lab.Config{})
	if err != nil {
		return nil, err
	}
	s := &stage{lab: l}
	if err := s.addHosts(vips); err != nil {
		l.Close()
		return nil, err
	}
	return s, nil
}

func (s *stage) addHosts(vips []netip.Addr) (err error) {
	client := hostConfig("client", clientNumber)
	// What comes for those that live behind it, it answers with ICMPv6 errors (ip6_pkt_discard),
	// which are about packets of IPVS's: all of them, and not so many in a while.
	client.Sysctls = [][2]string{{"-net.ipv6.icmp.ratelimit", "0"}}
	if s.client, err = s.lab.Add(client); err != nil {
		return err
	}
	for i := range serverCount {
		// The servers do not have the VIP: they would answer packets, and it
		// is the director's answers that are wanted.
		r, err := s.lab.Add(hostConfig(server(i), serverNumber+i))
		if err != nil {
			return err
		}
		s.servers = append(s.servers, r)
	}
	s.director, err = s.lab.Add(directorConfig(vips))
	return err
}

// renew puts a fresh director in the place of the old one, whose cable is
// pulled: all that a scenario has changed is the director's. What is left of
// the old one goes with the stage.
func (s *stage) renew(vips []netip.Addr) error {
	link, err := s.director.Netlink().LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("find the old director's cable: %w", err)
	}
	if err := s.director.Netlink().LinkDel(link); err != nil {
		return fmt.Errorf("pull the old director's cable: %w", err)
	}
	s.director, err = s.lab.Add(directorConfig(vips))
	return err
}

func hostConfig(name string, n int) lab.HostConfig {
	return lab.HostConfig{
		Name: name, MAC: mac(n),
		Addrs: []netip.Prefix{netip.PrefixFrom(addr4(n), 24), netip.PrefixFrom(addr6(n), 64)},
	}
}

func directorConfig(vips []netip.Addr) lab.HostConfig {
	c := hostConfig("director", directorNumber)
	for _, v := range vips {
		c.Addrs = append(c.Addrs, netip.PrefixFrom(v, v.BitLen()))
	}
	c.Sysctls = [][2]string{
		{"net.ipv4.conf.all.rp_filter", "0"},
		{"net.ipv4.conf.default.rp_filter", "0"},
		// Without limits, or answers go missing at random.
		{"net.ipv4.icmp_ratelimit", "0"},
		{"net.ipv4.icmp_ratemask", "0"},
		{"-net.ipv4.icmp_msgs_per_sec", "1000000"},
		{"-net.ipv4.icmp_msgs_burst", "100000"},
		{"-net.ipv6.icmp.ratelimit", "0"},
	}
	c.Routes = behindClient
	// Permanent, so that resolving never eats a first packet.
	known := []int{clientNumber}
	for i := range serverCount {
		known = append(known, serverNumber+i)
	}
	for _, n := range known {
		c.Neighbors = append(c.Neighbors,
			lab.Neighbor{Addr: addr4(n), MAC: mac(n)}, lab.Neighbor{Addr: addr6(n), MAC: mac(n)})
	}
	return c
}

func (s *stage) close() error { return s.lab.Close() }
