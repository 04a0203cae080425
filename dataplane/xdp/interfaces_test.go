package xdp_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane/afpacket"
	"github.com/ulvs/ulvs/dataplane/xdp"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/director"
	"github.com/ulvs/ulvs/internal/lab"
)

// nativeSite is a director whose program is in the driver, a client and a server.
type nativeSite struct {
	t, whole                 *testing.T
	lab                      *lab.Lab
	director, client, server *lab.Host
	lvs                      *director.Director
}

const patience = time.Minute

var vip = netip.MustParseAddr("192.168.10.101")

func (s *nativeSite) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func newNativeSite(t *testing.T) *nativeSite {
	t.Helper()
	s := &nativeSite{t: t, whole: t}
	var err error
	if s.lab, err = lab.New(lab.Config{}); errors.Is(err, lab.ErrPrivileges) {
		t.Skip(err)
	}
	s.must(err)
	t.Cleanup(func() { s.lab.Close() })
	for name, h := range map[string]**lab.Host{"director": &s.director, "client": &s.client, "server": &s.server} {
		addr := map[string]string{"director": "192.168.10.100/24", "client": "192.168.10.1/24", "server": "192.168.10.200/24"}[name]
		c := lab.HostConfig{Name: name, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}}
		if name == "server" {
			c.Loopback = []netip.Prefix{netip.PrefixFrom(vip, 32)}
			c.Sysctls = [][2]string{{"net.ipv4.conf.all.arp_ignore", "1"}, {"net.ipv4.conf.all.arp_announce", "2"}}
		}
		*h, err = s.lab.Add(c)
		s.must(err)
	}
	s.must(s.server.SetNeighbor(lab.Neighbor{Addr: netip.MustParseAddr("192.168.10.1"), MAC: s.client.MAC()}))
	// Programs see no unfinished checksum as such.
	s.must(s.client.Do(func() error { return lab.Checksums.Set("eth0", false) }))
	s.pass("director")
	s.up("eth0")
	var listener net.Listener
	s.must(s.server.Do(func() (err error) {
		listener, err = net.Listen("tcp4", ":80")
		return err
	}))
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return s
}

// pass puts a program in front of a port of the bridge, as the other end of a pair must have in
// whose driver a program sends (Options.Native).
func (s *nativeSite) pass(port string) {
	s.t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, program.ActionPass), asm.Return()}})
	if errors.Is(err, unix.EPERM) {
		s.t.Skip(err)
	}
	s.must(err)
	defer prog.Close()
	s.must(s.lab.Do(func() error {
		ifi, err := net.InterfaceByName(port)
		if err != nil {
			return err
		}
		l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: ifi.Index, Flags: link.XDPDriverMode})
		if err == nil {
			s.whole.Cleanup(func() { l.Close() })
		}
		return err
	}))
}

// up has the director's interface up, and all know where what is.
func (s *nativeSite) up(name string) {
	s.t.Helper()
	nl := s.director.Netlink()
	l, err := nl.LinkByName(name)
	s.must(err)
	s.must(nl.LinkSetUp(l))
	addr, err := netlink.ParseAddr("192.168.10.100/24")
	s.must(err)
	s.must(nl.AddrReplace(l, addr))
	s.must(nl.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: net.IPv4(192, 168, 10, 200), HardwareAddr: s.server.MAC()}))
	s.must(s.client.SetNeighbor(lab.Neighbor{Addr: vip, MAC: l.Attrs().HardwareAddr}))
}

// rename renames the director's interface: one that is up only where the kernel lets it
// (since Linux 6.2).
func (s *nativeSite) rename(from, to string) {
	s.t.Helper()
	nl := s.director.Netlink()
	l, err := nl.LinkByName(from)
	s.must(err)
	if err = nl.LinkSetName(l, to); errors.Is(err, unix.EBUSY) {
		s.must(nl.LinkSetDown(l))
		s.must(nl.LinkSetName(l, to))
		s.up(to)
		return
	}
	s.must(err)
}

// run begins a director, and ends it with the test.
func (s *nativeSite) run() {
	s.t.Helper()
	log := slog.New(slog.NewTextHandler(s.t.Output(), nil))
	s.must(s.director.Do(func() error {
		slow, err := afpacket.New(afpacket.Options{Interfaces: []string{"eth0"}, Logger: log})
		if err != nil {
			return err
		}
		fast, err := xdp.New(xdp.Options{Interfaces: []string{"eth0"}, Slow: slow, Native: true, Logger: log})
		if errors.Is(err, xdp.ErrNotPermitted) {
			s.t.Skip(err)
		}
		if err != nil {
			return err
		}
		s.lvs, err = director.New(director.Options{Plane: fast, Connections: 1000, Logger: log})
		return err
	}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.lvs.Run(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("Run: %v", err)
		}
		s.lvs.Close()
	})
	k := ulvs.ServiceKey{Protocol: ulvs.TCP, Addr: vip, Port: 80}
	s.must(s.lvs.AddService(ulvs.Service{ServiceKey: k, Scheduler: "rr"}))
	s.must(s.lvs.AddDestination(k, ulvs.Destination{Addr: netip.MustParseAddr("192.168.10.200"), Port: 80, Weight: 1}))
}

// open opens a connection, however often that has to be tried.
func (s *nativeSite) open() (c net.Conn) {
	s.t.Helper()
	for began := time.Now(); ; {
		err := s.client.Do(func() (err error) {
			c, err = net.DialTimeout("tcp4", netip.AddrPortFrom(vip, 80).String(), 300*time.Millisecond)
			return err
		})
		if err == nil {
			s.whole.Cleanup(func() { c.Close() })
			return c
		}
		if time.Since(began) > patience {
			s.t.Fatal(err)
		}
	}
}

// forwards sees that the program, in the driver, forwards a connection's packets, and that a
// new one is opened.
func (s *nativeSite) forwards(c net.Conn, name string) {
	s.t.Helper()
	frames := func() uint64 {
		all, err := s.lvs.Counters()
		s.must(err)
		return all["xdp_frames"]
	}
	for before, began := frames(), time.Now(); frames() == before; {
		s.must(c.SetDeadline(began.Add(patience)))
		_, err := c.Write([]byte("ping"))
		s.must(err)
		_, err = io.ReadFull(c, make([]byte, 4))
		s.must(err)
	}
	s.open()
	facts, err := s.lvs.Facts()
	s.must(err)
	for _, f := range facts {
		if f.Name == name && strings.HasPrefix(f.Value, "native, AF_XDP") {
			return
		}
	}
	s.t.Errorf("%s is not native: %v", name, facts)
}

// shows waits until a fact says something.
func (s *nativeSite) shows(name, text string) {
	s.t.Helper()
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		facts, err := s.lvs.Facts()
		s.must(err)
		for _, f := range facts {
			if f.Name == name && strings.Contains(f.Value, text) {
				return
			}
		}
		if time.Since(began) > patience {
			s.t.Fatalf("%s is not said to be %q: %v", name, text, facts)
		}
	}
}

// Interfaces whose program is in the driver, with AF_XDP sockets, come, go and change as
// those in generic mode do (cmd/ulvs, TestInterface…).
func TestInterfacesNative(t *testing.T) {
	s := newNativeSite(t)
	s.run()
	c := s.open()
	s.forwards(c, "eth0")
	nl := s.director.Netlink()
	named := func(name string) netlink.Link {
		l, err := nl.LinkByName(name)
		s.must(err)
		return l
	}
	change := func(what string, f func(t *testing.T)) {
		t.Run(what, func(inner *testing.T) {
			defer func() { s.t = t }()
			s.t = inner
			f(inner)
		})
	}
	change("removed and made anew", func(*testing.T) {
		s.must(nl.LinkDel(named("eth0")))
		s.shows("eth0", "not there")
		s.must(s.lab.Cable(s.director, "eth0", lab.MAC(0x7701)))
		s.pass("cable1")
		s.up("eth0")
		s.forwards(c, "eth0")
	})
	change("another address", func(*testing.T) {
		s.must(nl.LinkSetHardwareAddr(named("eth0"), lab.MAC(0x7702)))
		s.up("eth0")
		s.forwards(c, "eth0")
	})
	change("another MTU", func(*testing.T) {
		s.must(nl.LinkSetMTU(named("eth0"), 2000))
		s.shows("eth0", "no AF_XDP")
		s.must(nl.LinkSetMTU(named("eth0"), 1500))
		s.shows("eth0", "AF_XDP copy")
		s.forwards(c, "eth0")
	})
	change("renamed", func(*testing.T) {
		s.rename("eth0", "front0")
		s.shows("front0", "given as eth0")
		s.forwards(c, "front0")
		s.rename("front0", "eth0")
		s.shows("eth0", "native")
	})
	change("another namespace", func(t *testing.T) {
		elsewhere, err := s.lab.Add(lab.HostConfig{Name: "elsewhere"})
		s.must(err)
		s.rename("eth0", "moving0")
		s.must(nl.LinkSetNsFd(named("moving0"), elsewhere.Namespace()))
		s.shows("eth0", "not there")
		moved, err := elsewhere.Unattached("moving0", 10*time.Second)
		s.must(err)
		s.must(elsewhere.Netlink().LinkSetNsFd(moved, s.director.Namespace()))
		s.must(nl.LinkSetName(named("moving0"), "eth0"))
		s.up("eth0")
		s.forwards(c, "eth0")
	})
}
