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
