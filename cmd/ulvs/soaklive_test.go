package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
)

// Unless -soak-live=false, the director has a second interface, eth1, with a cable of its own to a
// second client, who sends there what he asks and hears the answers by the bridge. It comes
// and goes, which must not concern the first.

const (
	soakFar      = "10.4.0.0/16" // the second client's addresses
	soakFarFlows = 10
)

// soakFarMAC is eth1's address, whenever it is made.
var soakFarMAC = lab.MAC(0x9801)

// addFar makes the second client and its cable.
func (k *soak) addFar() {
	k.t.Helper()
	far, err := k.lab.Add(lab.HostConfig{Name: "h5", MAC: lab.MAC(5), Addrs: prefixes("192.168.10.5/24"),
		Sysctls: [][2]string{{"net.ipv4.conf.all.rp_filter", "0"}, {"net.ipv4.conf.default.rp_filter", "0"}}})
	if err != nil {
		k.t.Fatal(err)
	}
	k.far = far
	k.route(far, "lo", &netlink.Route{Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST, Dst: ipNet(soakFar)})
	for _, h := range k.servers {
		if err := h.SetNeighbor(lab.Neighbor{Addr: netip.MustParseAddr("192.168.10.5"), MAC: far.MAC()}); err != nil {
			k.t.Fatal(err)
		}
		k.route(h, "eth0", &netlink.Route{Dst: ipNet(soakFar), Gw: net.IPv4(192, 168, 10, 5)})
	}
	k.plugFar()
}

// check ends the test if its network cannot be made.
func (k *soak) check(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatalf("%s: %v", k.said, err)
	}
}

// namespace opens a host's network namespace.
func (k *soak) namespace(h *lab.Host) (fd int) {
	k.t.Helper()
	k.check(h.Do(func() (err error) {
		fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	}))
	return fd
}

// plugFar lays the cable.
func (k *soak) plugFar() {
	k.t.Helper()
	fd := k.namespace(k.far)
	defer unix.Close(fd)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = "eth1", soakFarMAC
	k.check(k.director.Netlink().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth1", PeerNamespace: netlink.NsFd(fd)}))
	nl := k.far.Netlink()
	peer, err := nl.LinkByName("eth1")
	k.check(err)
	k.check(nl.LinkSetUp(peer))
	k.route(k.far, "eth1", &netlink.Route{Dst: ipNet(floodVIP + "/32"), Scope: netlink.SCOPE_LINK})
	k.wireFar(soakFarMAC)
	k.upFar()
}

// wireFar is wire for the second client, if there is one.
func (k *soak) wireFar(to net.HardwareAddr) {
	k.t.Helper()
	if k.far == nil {
		return
	}
	nl := k.far.Netlink()
	peer, err := nl.LinkByName("eth1")
	k.check(err)
	k.check(nl.NeighSet(&netlink.Neigh{LinkIndex: peer.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(floodVIP), HardwareAddr: to}))
}

// upFar has the director's end of the cable be up.
func (k *soak) upFar() {
	k.t.Helper()
	link, err := k.director.Netlink().LinkByName("eth1")
	k.check(err)
	k.check(k.director.Netlink().LinkSetUp(link))
}

// farLink is eth1, down where its change needs that.
func (k *soak) farLink(down bool) netlink.Link {
	k.t.Helper()
	link, err := k.director.Netlink().LinkByName("eth1")
	k.check(err)
	if down {
		k.check(k.director.Netlink().LinkSetDown(link))
	}
	return link
}

// dialFar opens a connection of the second client.
func (k *soak) dialFar(n int) (c net.Conn, err error) {
	d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 4, 1, byte(n+1))}}
	err = k.far.Do(func() (err error) {
		c, err = d.Dial("tcp4", fmt.Sprint(floodVIP, ":", soakPorts[0]))
		return err
	})
	return c, err
}

// farServed waits until the second client's requests arrive again.
func (k *soak) farServed(r *rand.Rand) {
	k.t.Helper()
	k.await("the second client is served again", func() bool {
		c, err := k.dialFar(100 + r.IntN(100))
		if err == nil {
			_, err = exchange(c, patience)
			c.Close()
		}
		return err == nil
	})
}

func (k *soak) linkRemoved(r *rand.Rand) {
	pause := between(r, 0, 2*time.Second)
	k.note("eth1 is removed, and made anew after %v", pause)
	k.check(k.director.Netlink().LinkDel(k.farLink(false)))
	time.Sleep(pause)
	k.plugFar()
	k.farServed(r)
}

func (k *soak) linkRenamed(r *rand.Rand) {
	pause := between(r, 0, 2*time.Second)
	k.note("eth1 becomes other1 for %v", pause)
	nl := k.director.Netlink()
	link := k.farLink(true)
	k.check(nl.LinkSetName(link, "other1"))
	k.check(nl.LinkSetUp(link))
	time.Sleep(pause)
	k.check(nl.LinkSetDown(link))
	k.check(nl.LinkSetName(link, "eth1"))
	k.upFar()
	k.farServed(r)
}

func (k *soak) linkMoved(r *rand.Rand) {
	pause := between(r, 0, 2*time.Second)
	k.note("eth1 is in another namespace for %v", pause)
	there, back := k.namespace(k.stranger), k.namespace(k.director)
	defer unix.Close(there)
	defer unix.Close(back)
	k.check(k.director.Netlink().LinkSetNsFd(k.farLink(true), there))
	time.Sleep(pause)
	link, err := k.stranger.Netlink().LinkByName("eth1")
	k.check(err)
	k.check(k.stranger.Netlink().LinkSetNsFd(link, back))
	k.upFar()
	k.farServed(r)
}

func (k *soak) linkEnslaved(r *rand.Rand) {
	pause := between(r, 0, 2*time.Second)
	k.note("eth1 is a bridge's for %v", pause)
	nl := k.director.Netlink()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br1"
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	k.check(nl.LinkAdd(bridge))
	link := k.farLink(false)
	k.check(nl.LinkSetMaster(link, bridge))
	time.Sleep(pause)
	k.check(nl.LinkSetNoMaster(link))
	k.check(nl.LinkDel(bridge))
	k.farServed(r)
}
