package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
)

// A real server behind another interface than the client: the program redirects its
// packets there, and AF_PACKET sends the first ones.
func TestTwoInterfaces(t *testing.T) {
	s := newPinSite(t)
	other, err := s.lab.Add(lab.HostConfig{Name: "far"})
	if err != nil {
		t.Fatal(err)
	}
	// A cable of its own between the director's eth1 and the server's.
	var ns int
	if err := other.Do(func() (err error) {
		ns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ns)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth1"
	if err := s.director.Netlink().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth1", PeerNamespace: netlink.NsFd(ns)}); err != nil {
		t.Fatal(err)
	}
	var far net.HardwareAddr
	for _, end := range []struct {
		h    *lab.Host
		addr string
	}{{s.director, "192.168.20.100/24"}, {other, "192.168.20.200/24"}} {
		link, err := end.h.Netlink().LinkByName("eth1")
		if err != nil {
			t.Fatal(err)
		}
		far = link.Attrs().HardwareAddr
		addr, err := netlink.ParseAddr(end.addr)
		if err != nil {
			t.Fatal(err)
		}
		if err := end.h.Netlink().AddrAdd(link, addr); err != nil {
			t.Fatal(err)
		}
		if err := end.h.Netlink().LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
	}
	s.watchOn(0, other, "eth1", far)
	s.run("--interface", "eth1")
	s.commands(`
		ipvsadm -A -t 192.168.10.101:80 -s wlc
		ipvsadm -a -t 192.168.10.101:80 -r 192.168.20.200 -g
	`)
	const packets = 500
	for i := range uint32(packets) {
		flags := "PA"
		switch i {
		case 0:
			flags = "S"
		case 1:
			flags = "A"
		}
		s.send(s.frame(1, 80, flags, 1+i))
		if i < 2 {
			s.got(1+i, 1)
		}
	}
	s.got(1, packets)
	// The first may have had to wait for the server's MAC address.
	if status := s.status(); status["xdp_frames"] < packets-1 {
		t.Errorf("%d of %d packets were redirected", status["xdp_frames"], packets)
	}
}

// Whoever may not load programs gets AF_PACKET, and one line that says why.
func TestNoBPF(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.director.Command(context.Background(), "/proc/self/exe", "run", "--interface", "eth0", "--control", filepath.Join(s.dir, "ulvs.sock"))
	if os.Getuid() == 0 {
		// What a user namespace's root may.
		setpriv := []string{"setpriv", "--bounding-set", "-bpf,-sys_admin,-perfmon", "--inh-caps", "-bpf,-sys_admin,-perfmon"}
		c = s.director.Command(context.Background(), setpriv[0], append(setpriv[1:], append([]string{"/proc/self/exe"}, c.Args[1:]...)...)...)
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		c.Args[len(setpriv)] = exe
	}
	log := new(said)
	c.Stderr = log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.stop(c) })
	log.await(t, "msg=ready")
	if out, code := s.ulvs("", "ulvs", "status"); code != 0 || !strings.HasPrefix(out, "plane                    afpacket\n") {
		t.Errorf("status: %s", out)
	}
	if out, _ := s.ulvs("", "ulvs", "status"); !strings.Contains(out, "xdp                      not used: this process may not load BPF programs") {
		t.Errorf("status: %s", out)
	}
	if n := strings.Count(log.String(), `level=WARN msg="packets are taken by AF_PACKET, which is slower than XDP"`); n != 1 || !strings.Contains(log.String(), "may not load BPF programs") {
		t.Errorf("the log: %s", log.String())
	}
}
