package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// What is the host's after all, though it comes to a virtual address that the host
// has, is answered by the host: a fragmented datagram to a port of its own, an ICMP
// error about a socket of its own, and a stray ACK for a service.
func TestHostBound(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--plane", "afpacket"}, {"--plane", "tcx"}, {"--plane", "xdp", "--af-xdp", "off"}, {"--plane", "xdp", "--af-xdp", "on"}} {
		t.Run(args[1]+" "+args[len(args)-1], func(t *testing.T) { hostBound(t, args) })
	}
}

func hostBound(t *testing.T, args []string) {
	if args[1] != "afpacket" && os.Getuid() != 0 {
		t.Skip("BPF needs root")
	}
	s := newSite(t)
	s.haveVIP()
	s.start(append([]string{"--interface", "eth0"}, args...)...)
	if out, _ := s.ulvs("", "ulvs", "status"); args[1] == "xdp" && (args[len(args)-1] == "off") != strings.Contains(out, "no AF_XDP (AF_XDP is off)") {
		t.Errorf("%q: %s", args, out)
	}
	s.serve()

	// The host's own echo service, in fragments both ways.
	var own, asking net.Conn
	var echo net.PacketConn
	if err := s.director.Do(func() (err error) {
		if echo, err = net.ListenPacket("udp4", "192.168.10.101:7"); err != nil {
			return err
		}
		own, err = net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(192, 168, 10, 101), Port: 80}, &net.UDPAddr{IP: net.IPv4(192, 168, 10, 1), Port: 9})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	defer own.Close()
	go func() {
		buf := make([]byte, 9000)
		for {
			n, from, err := echo.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = echo.WriteTo(buf[:n], from)
		}
	}()
	if err := s.client.Do(func() (err error) {
		asking, err = net.Dial("udp4", "192.168.10.101:7")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer asking.Close()
	text := bytes.Repeat([]byte("fragments "), 400)
	buf := make([]byte, 9000)
	_ = asking.SetDeadline(time.Now().Add(patience))
	if _, err := asking.Write(text); err != nil {
		t.Fatal(err)
	}
	if n, err := asking.Read(buf); err != nil || !bytes.Equal(buf[:n], text) {
		t.Errorf("the echo of a fragmented datagram: %d bytes, %v", n, err)
	}

	// Nobody listens on the client's port 9: the error comes to the socket.
	if _, err := own.Write([]byte("is anybody there?")); err != nil {
		t.Fatal(err)
	}
	_ = own.SetDeadline(time.Now().Add(patience))
	if _, err := own.Read(buf); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("the host's socket was told %v, not that its port is unreachable", err)
	}

	// A stray ACK: the host resets it, and ulvs does not.
	from := socket(t, s.client)
	if _, err := from.WriteTo(crafted(t, s, "A", 5, 0), &packet.Addr{HardwareAddr: s.director.MAC()}); err != nil {
		t.Fatal(err)
	}
	_ = from.SetReadDeadline(time.Now().Add(patience))
	for {
		n, _, err := from.ReadFrom(buf)
		if err != nil {
			t.Fatalf("no reset: %v", err)
		}
		p := gopacket.NewPacket(buf[:n], layers.LayerTypeEthernet, gopacket.Default)
		if tcp, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP); ok && tcp.RST && tcp.SrcPort == 80 {
			break
		}
	}
	if n := s.status()["answered_for_host"]; n != 0 {
		t.Errorf("%d packets were answered in the host's place", n)
	}
}

// What Go decides is not overtaken: here the daemon is held up while a SYN that was sent again waits for it,
// and the ACK behind it waits too. A FIN of another connection does not.
func TestNotOvertaken(t *testing.T) {
	t.Parallel()
	for _, sockets := range []string{"off", "on"} {
		t.Run("af-xdp "+sockets, func(t *testing.T) {
			s := newPinSite(t)
			daemon := s.start("--interface", "eth0", "--plane", *fast, "--af-xdp", sockets)
			s.serve()
			for i, flags := range []string{"S", "A", "S", "A"} {
				s.send(s.frame(uint32(1+i/2), 80, flags, uint32(1+i)))
				s.got(uint32(1+i), 1)
			}
			began := time.Now()
			if err := daemon.Process.Signal(unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			stopped := fmt.Sprintf("/proc/%d/stat", daemon.Process.Pid)
			for text := ""; !strings.Contains(text, ") T "); time.Sleep(time.Millisecond) {
				raw, err := os.ReadFile(stopped)
				if err != nil {
					t.Fatal(err)
				}
				text = string(raw)
			}
			s.send(s.frame(1, 80, "S", 5))
			s.send(s.frame(1, 80, "A", 6))
			s.send(s.frame(2, 80, "FA", 7))
			s.got(7, 1)
			s.mu.Lock()
			_, first := s.seen[5]
			_, second := s.seen[6]
			s.mu.Unlock()
			const alone = time.Second // the program goes on without a daemon that says nothing for two
			if first || second && time.Since(began) < alone {
				t.Errorf("the SYN did not wait for the daemon: %v; the ACK behind it: %v", first, second)
			}
			if err := daemon.Process.Signal(unix.SIGCONT); err != nil {
				t.Fatal(err)
			}
			s.got(5, 2)
			if out := s.output("ipvsadm -Lnc"); !strings.Contains(out, "FIN_WAIT") {
				t.Error(out)
			}
		})
	}
}
