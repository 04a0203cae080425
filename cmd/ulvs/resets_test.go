package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/lab"
)

// tcpWatch says what became of a client's connections on his wire: who has reset them, the
// director in a host's place or a server that got what was another's, and what came before.
type tcpWatch struct {
	mu    sync.Mutex
	who   map[string]string // a MAC address: the host's name
	conns map[netip.AddrPort]*watchedConn
}

// watchedConn is what was seen of a connection. most bounds what is remembered of one.
type watchedConn struct {
	began, last time.Time
	said        []string
}

const watchedMost = 60

func watchTCP(t *testing.T, client *lab.Host, servers []*lab.Host) *tcpWatch {
	t.Helper()
	w := &tcpWatch{who: map[string]string{client.MAC().String(): "the client"}, conns: map[netip.AddrPort]*watchedConn{}}
	for i, h := range servers {
		w.who[h.MAC().String()] = fmt.Sprint("server ", i)
	}
	conn := socketOn(t, client, "eth0")
	go func() {
		buf := make([]byte, 2048)
		for {
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			w.frame(buf[:n])
		}
	}()
	return w
}

// frame notes a frame of IPv4 without options.
func (w *tcpWatch) frame(f []byte) {
	const ip, tcp = 14, 34
	if len(f) < tcp+20 || f[12] != 8 || f[13] != 0 || f[ip] != 0x45 || f[ip+9] != unix.IPPROTO_TCP {
		return
	}
	from := w.who[net.HardwareAddr(f[6:12]).String()]
	addr, port := f[ip+16:ip+20], f[tcp+2:]
	switch from {
	case "":
		from = "the director"
	case "the client":
		addr, port = f[ip+12:ip+16], f[tcp:]
	}
	var flags strings.Builder
	for bit, letter := range "FSRPA" {
		if f[tcp+13]&(1<<bit) != 0 {
			flags.WriteRune(letter)
		}
	}
	a, _ := netip.AddrFromSlice(addr)
	at, now := netip.AddrPortFrom(a, binary.BigEndian.Uint16(port)), time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.conns[at]
	if c == nil {
		c = &watchedConn{began: now}
		w.conns[at] = c
	}
	c.last = now
	if len(c.said) < watchedMost || f[tcp+13]&4 != 0 {
		c.said = append(c.said, fmt.Sprintf("%v %s %s seq %d ack %d", now.Sub(c.began).Round(time.Millisecond/10), from, flags.String(),
			binary.BigEndian.Uint32(f[tcp+4:]), binary.BigEndian.Uint32(f[tcp+8:])))
	}
}

func unmapped(tcp net.Addr) netip.AddrPort {
	at := tcp.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// said is all that was seen of a client's connection: the one of his port, or of his address if
// that is not known.
func (w *tcpWatch) said(local netip.AddrPort) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for at, c := range w.conns {
		if at == local || local.Port() == 0 && at.Addr() == local.Addr() {
			return "\n\t" + strings.Join(c.said, "\n\t")
		}
	}
	return "nothing was seen"
}

// forget lets go of connections that say nothing more.
func (w *tcpWatch) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for at, c := range w.conns {
		if time.Since(c.last) > time.Minute {
			delete(w.conns, at)
		}
	}
}
