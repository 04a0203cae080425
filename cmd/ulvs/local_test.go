package main

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ulvs/ulvs/internal/lab"
)

// A real server that is the director itself (IPVS's LOCALNODE): connections
// reach its own listener at the virtual address.
func TestLocalServer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.haveVIP()
	var l net.Listener
	if err := s.director.Do(func() (err error) {
		l, err = net.Listen("tcp4", ":80")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "the director itself")
			c.Close()
		}
	}()
	s.start("--interface", "eth0")
	for _, c := range []string{
		"ipvsadm -A -t 192.168.10.101:80 -s rr",
		"ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.100 -g",
	} {
		if out, code := s.ulvs("", strings.Fields(c)...); code != 0 {
			t.Fatal(out)
		}
	}
	for range 3 {
		if got := read(t, s.client, "192.168.10.101:80"); got != "the director itself" {
			t.Fatalf("%q", got)
		}
	}
	if out, _ := s.ulvs("", "ipvsadm", "-Ln"); !strings.Contains(out, "-> 192.168.10.100:80            Route   1      0          3") {
		t.Error(out)
	}
}

// Under a strict reverse path filter it gets no packets by way of lo: each command warns beside ipvsadm's
// own answer, and the log says it once.
func TestLocalServerRefused(t *testing.T) {
	s := newSite(t)
	s.haveVIP()
	if err := s.director.Sysctl("net.ipv4.conf.all.rp_filter", "1"); err != nil {
		t.Fatal(err)
	}
	d := s.start("--interface", "eth0", "--plane", "afpacket")
	const want = "ulvs: warning: packets for real server 192.168.10.100:80 are dropped: it is this host, which takes none by way of lo; " +
		"set lo up, and the sysctls net.ipv4.conf.all.rp_filter and net.ipv4.conf.lo.rp_filter to 0 or 2, and start ulvs anew\n"
	for _, step := range []struct{ words, stdin, want string }{
		{words: "ipvsadm -A -t 192.168.10.101:80 -s rr"},
		{words: "ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.200 -g"},
		{words: "ipvsadm -a -t 192.168.10.101:80 -r 192.168.10.100 -g", want: want},
		{words: "ipvsadm -e -t 192.168.10.101:80 -r 192.168.10.100 -g -w 2", want: want},
		{words: "ipvsadm -R", want: strings.ReplaceAll(want, ":80", ":81"), stdin: "-A -t 192.168.10.101:81\n-a -t 192.168.10.101:81 -r 192.168.10.100 -g\n"},
	} {
		if out, code := s.ulvs(step.stdin, strings.Fields(step.words)...); code != 0 || out != step.want {
			t.Errorf("%s: exit %d: %q, want %q", step.words, code, out, step.want)
		}
	}
	log := d.Stderr.(*said)
	if n := strings.Count(log.String(), "it is this host"); n != 1 {
		t.Errorf("logged %d times: %s", n, log)
	}
}

func read(t *testing.T, from *lab.Host, to string) string {
	t.Helper()
	var c net.Conn
	if err := from.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", to, patience)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	text, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// haveVIP puts the virtual address on the director's interface.
func (s *site) haveVIP() {
	s.t.Helper()
	nl := s.director.Netlink()
	eth0, err := nl.LinkByName("eth0")
	if err != nil {
		s.t.Fatal(err)
	}
	_, virtual, _ := net.ParseCIDR("192.168.10.101/32")
	if err := nl.AddrAdd(eth0, &netlink.Addr{IPNet: virtual}); err != nil {
		s.t.Fatal(err)
	}
}
