package main

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ulvs/ulvs/internal/lab"
)

// liveSite is a site whose director's interfaces come, go and change, with a client on each
// of two networks. The server is on the first, and answers both.
type liveSite struct {
	*site
	plane string
	log   *said
	far   *lab.Host // a client on a cable of its own, whose other end is the director's eth1
}

// The addresses of the director's interfaces.
var liveAddrs = map[string]string{"eth0": "192.168.10.100/24", "eth1": "192.168.20.100/24"}

const farClient = "192.168.20.1"

// onLivePlanes runs a test on each plane, with a site of its own.
func onLivePlanes(t *testing.T, f func(s *liveSite)) {
	t.Parallel()
	planes := []string{"afpacket", "tcx", "xdp, af-xdp", "xdp"}
	if raced() {
		planes = planes[:3] // the last has no more of Go's
	}
	for _, plane := range planes {
		t.Run(plane, func(t *testing.T) {
			t.Parallel()
			s := &liveSite{site: newSite(t), plane: plane}
			answers(t, s.server, netip.MustParseAddr(loadVIP))
			s.knows(s.server, "eth0", "192.168.10.1", s.client.MAC())
			s.up("eth0")
			f(s)
		})
	}
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// tablesFor are the host's tables while an interface is served: TCX needs none.
func (s *liveSite) tablesFor(name string) string {
	if s.plane == "tcx" {
		return ""
	}
	return "table netdev ulvs-" + name + "\n"
}

// begin starts a daemon on these interfaces, with the service.
func (s *liveSite) begin(interfaces string, more ...string) *lab.Cmd {
	s.t.Helper()
	daemon := s.start(slices.Concat([]string{"--interface", interfaces}, loadPlanes[s.plane], more)...)
	s.log = daemon.Stderr.(*said)
	if out, _ := s.ulvs("", "ipvsadm", "-Sn"); out == "" {
		s.serveLoad()
	}
	return daemon
}

// addFar adds the second network, without the director's interface.
func (s *liveSite) addFar() {
	s.t.Helper()
	var err error
	s.far, err = s.lab.Add(lab.HostConfig{Name: "far", Addrs: prefixes("192.168.10.2/24"),
		Sysctls: [][2]string{{"net.ipv4.conf.all.rp_filter", "0"}, {"net.ipv4.conf.default.rp_filter", "0"}}})
	s.must(err)
	server, err := s.server.Netlink().LinkByName("eth0")
	s.must(err)
	s.must(s.server.Netlink().RouteAdd(&netlink.Route{LinkIndex: server.Attrs().Index, Dst: ipNet("192.168.20.0/24"),
		Gw: net.IPv4(192, 168, 10, 2)}))
	s.knows(s.server, "eth0", "192.168.10.2", s.far.MAC())
}

// cableFar lays the cable between the director's eth1 and the far client.
func (s *liveSite) cableFar() {
	s.t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth1"
	s.must(s.director.Netlink().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth1", PeerNamespace: netlink.NsFd(s.far.Namespace())}))
	if s.plane != "afpacket" {
		s.must(s.far.TakeXDP("eth1"))
	}
	end, err := s.far.Netlink().LinkByName("eth1")
	s.must(err)
	s.address(s.far, "eth1", farClient+"/24")
	s.must(s.far.Netlink().RouteReplace(&netlink.Route{LinkIndex: end.Attrs().Index, Dst: ipNet(loadVIP + "/32"), Gw: net.IPv4(192, 168, 20, 100)}))
	s.up("eth1")
	s.knows(s.far, "eth1", "192.168.20.100", s.link("eth1").Attrs().HardwareAddr)
}

// link is an interface of the director.
func (s *site) link(name string) netlink.Link {
	s.t.Helper()
	l, err := s.director.Netlink().LinkByName(name)
	s.must(err)
	return l
}

// address gives a host's interface an address, and has it up.
func (s *liveSite) address(h *lab.Host, name, addr string) {
	s.t.Helper()
	l, err := h.Netlink().LinkByName(name)
	s.must(err)
	s.must(h.Netlink().LinkSetUp(l))
	a, err := netlink.ParseAddr(addr)
	s.must(err)
	s.must(h.Netlink().AddrReplace(l, a))
}

// up gives an interface of the director the address that it has on its network, and tells the
// first client where the virtual address is now: what the server asks by ARP would say that it
// is the server's.
func (s *liveSite) up(name string) {
	s.t.Helper()
	s.address(s.director, name, liveAddrs[name])
	if name == "eth0" {
		s.knows(s.director, name, "192.168.10.200", s.server.MAC())
		s.knows(s.client, "eth0", loadVIP, s.link(name).Attrs().HardwareAddr)
	}
}

// knows tells a host a neighbour for good: the kernel's table is one for all namespaces, and
// others may fill it.
func (s *liveSite) knows(h *lab.Host, name, addr string, mac net.HardwareAddr) {
	s.t.Helper()
	l, err := h.Netlink().LinkByName(name)
	s.must(err)
	s.must(h.Netlink().NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: net.ParseIP(addr), HardwareAddr: mac}))
}

func (s *liveSite) remove(name string) {
	s.t.Helper()
	s.must(s.director.Netlink().LinkDel(s.link(name)))
}

// open opens a connection from a client, however often it has to be tried.
func (s *liveSite) open(from *lab.Host) (c net.Conn) {
	s.t.Helper()
	for began := time.Now(); ; {
		err := from.Do(func() (err error) {
			d := net.Dialer{Timeout: 300 * time.Millisecond}
			if from == s.far {
				d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(farClient)}
			}
			c, err = d.Dial("tcp4", loadVIP+":80")
			return err
		})
		if err == nil {
			break
		}
		if time.Since(began) > patience {
			s.t.Fatalf("no connection: %v; the daemon: %s", err, s.log)
		}
	}
	s.t.Cleanup(func() { c.Close() })
	s.must(echoed(c))
	return c
}

// forwards sees an established connection go on, in the way of the plane.
func (s *liveSite) forwards(c net.Conn) {
	s.t.Helper()
	counter := "tx_frames"
	if s.plane != "afpacket" {
		counter = "xdp_frames"
	}
	for before, began := s.status()[counter], time.Now(); s.status()[counter] == before; {
		if err := echoed(c); err != nil {
			s.t.Fatalf("an established connection: %v; the daemon: %s", err, s.log)
		}
		if time.Since(began) > patience {
			out, _ := s.ulvs("", "ulvs", "status", "--all")
			s.t.Fatalf("%s does not count; the daemon: %s\n%s", counter, s.log, out)
		}
	}
}

// once waits until the daemon has said a text, at this level, and sees that it has said it once.
func (s *liveSite) once(level, text string) {
	s.t.Helper()
	s.log.await(s.t, text)
	n := 0
	for line := range strings.Lines(s.log.String()) {
		if strings.Contains(line, text) && strings.Contains(line, "level="+level+" ") {
			n++
		}
	}
	if n != 1 {
		s.t.Errorf("%s %q was said %d times: %s", level, text, n, s.log)
	}
}

// quiet sees that nothing was said at a level but what is expected.
func (s *liveSite) quiet(expected ...string) {
	s.t.Helper()
	for line := range strings.Lines(s.log.String()) {
		if !strings.Contains(line, "level=INFO") && !strings.Contains(line, "packets may be lost by it") &&
			!slices.ContainsFunc(expected, func(e string) bool { return strings.Contains(line, e) }) {
			s.t.Errorf("it said: %s", line)
		}
	}
}

// shows waits until ulvs status has a line of an interface that holds a text.
func (s *liveSite) shows(name, text string) {
	s.t.Helper()
	var out string
	for began := time.Now(); time.Since(began) < patience; time.Sleep(10 * time.Millisecond) {
		out, _ = s.ulvs("", "ulvs", "status")
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, name+" ") && strings.Contains(line, text) {
				return
			}
		}
	}
	s.t.Fatalf("status shows no %s with %q: %s", name, text, out)
}

// tables are the nftables tables of the director.
func (s *liveSite) tables() string {
	s.t.Helper()
	out, err := s.director.Command(s.t.Context(), "nft", "list", "tables").CombinedOutput()
	s.must(err)
	return string(out)
}
