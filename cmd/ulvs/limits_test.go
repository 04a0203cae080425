package main

import (
	"encoding/binary"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ulvs/ulvs/packet"
)

// asker asks a virtual address what nobody answers, and counts the ICMP errors.
type asker struct {
	*site
	datagrams, icmp net.PacketConn
	sent, given     int
	seq             uint16
}

func newAsker(s *site) *asker {
	a := &asker{site: s}
	if err := s.client.Do(func() (err error) {
		if a.datagrams, err = net.ListenPacket("udp4", "192.168.10.1:1000"); err != nil {
			return err
		}
		a.icmp, err = net.ListenPacket("ip4:icmp", "192.168.10.1")
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		a.datagrams.Close()
		a.icmp.Close()
	})
	return a
}

// ask sends n datagrams and says how many came back as port unreachable. As many have to
// as the daemon has counted, and an echo behind them says that no more do.
func (a *asker) ask(n int) (unreachable int) {
	a.t.Helper()
	vip := net.IPv4(192, 168, 10, 101)
	for range n {
		if _, err := a.datagrams.WriteTo([]byte("anybody?"), &net.UDPAddr{IP: vip, Port: 53}); err != nil {
			a.t.Fatal(err)
		}
	}
	a.sent += n
	status := a.status()
	for began := time.Now(); status["drop_no_server"] < a.sent; status = a.status() {
		if time.Since(began) > 20*time.Second {
			a.t.Fatalf("%d of %d datagrams have come: %v", status["drop_no_server"], a.sent, status)
		}
	}
	given := a.sent - status["icmp_limited_client"] - status["icmp_limited_global"] - a.given
	a.given += given
	_ = a.icmp.SetReadDeadline(time.Now().Add(20 * time.Second))
	buf := make([]byte, 2000)
	read := func() []byte {
		size, _, err := a.icmp.ReadFrom(buf)
		if err != nil || size < 8 {
			a.t.Fatalf("%d of %d errors about %d datagrams have come: %v", unreachable, given, n, err)
		}
		if buf[0] == 3 && buf[1] == 3 {
			unreachable++
		}
		return buf[:size]
	}
	for unreachable < given {
		read()
	}
	a.seq++
	echo := []byte{8, 0, 0, 0, 0x75, 0x6c, byte(a.seq >> 8), byte(a.seq)}
	binary.BigEndian.PutUint16(echo[2:], packet.Checksum(echo))
	if _, err := a.icmp.WriteTo(echo, &net.IPAddr{IP: vip}); err != nil {
		a.t.Fatal(err)
	}
	for {
		if b := read(); b[0] == 0 && binary.BigEndian.Uint16(b[6:]) == a.seq {
			return unreachable
		}
	}
}

// On every plane the daemon sends ICMP errors as often as the sysctls of its own network
// namespace say, and follows them.
func TestErrorLimits(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--plane", "afpacket"}, {"--plane", "tcx"}, {"--plane", "xdp", "--af-xdp", "off"}, {"--plane", "xdp", "--af-xdp", "on"}} {
		t.Run(strings.Join(args[1:], " "), func(t *testing.T) {
			t.Parallel() // it waits for a clock
			if args[1] != "afpacket" && os.Getuid() != 0 {
				t.Skip("BPF needs root")
			}
			s := newSite(t)
			set := func(name, value string) {
				t.Helper()
				if err := s.director.Sysctl("net.ipv4."+name, value); err != nil {
					t.Fatal(err)
				}
			}
			set("icmp_ratelimit", "10000")
			s.start(append([]string{"--interface", "eth0"}, args...)...)
			if out, code := s.ulvs("", strings.Fields("ipvsadm -A -u 192.168.10.101:53 -s rr")...); code != 0 {
				t.Fatal(out)
			}
			a := newAsker(s)
			began := time.Now()
			got := a.ask(100)
			if most := 6 + int(time.Since(began)/(10*time.Second)); got < 6 || got > most {
				t.Errorf("%d errors about 100 datagrams, want 6", got)
			}
			if status := s.status(); status["icmp_limited_client"] != 100-got || status["drop_no_server"] != 100 {
				t.Errorf("%d errors; counted as not given: %d, as dropped: %d", got, status["icmp_limited_client"], status["drop_no_server"])
			}
			set("icmp_ratelimit", "0")
			for began := time.Now(); a.ask(1) == 0; time.Sleep(20 * time.Millisecond) {
				if time.Since(began) > time.Minute {
					t.Fatal("a change of the sysctl was not noticed")
				}
			}
			if got := a.ask(20); got != 20 {
				t.Errorf("%d errors about 20 datagrams without a limit", got)
			}
		})
	}
}
