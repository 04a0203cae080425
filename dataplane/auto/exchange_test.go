package auto_test

import (
	"encoding/binary"
	"hash/crc32"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/ulvs/ulvs/internal/lab"
)

// late is what a real server answers when the client's socket is closed.
const late = "late"

// serve has a real server answer what it gets with its number and a sum.
func (s *site) serve(h *lab.Host, number byte) {
	s.Helper()
	answer := func(b []byte) []byte { return binary.BigEndian.AppendUint32([]byte{number}, crc32.ChecksumIEEE(b)) }
	for _, six := range []bool{false, true} {
		for _, port := range []uint16{portFast, portSlow} {
			var l net.Listener
			s.must(h.Do(func() (err error) {
				l, err = net.Listen("tcp", netip.AddrPortFrom(vip(six), port).String())
				return err
			}))
			s.Cleanup(func() { l.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					go func() {
						defer c.Close()
						var size [4]byte
						for {
							if _, err := io.ReadFull(c, size[:]); err != nil {
								return
							}
							b := make([]byte, binary.BigEndian.Uint32(size[:]))
							if _, err := io.ReadFull(c, b); err != nil {
								return
							}
							_, _ = c.Write(answer(b))
						}
					}()
				}
			}()
		}
		var p net.PacketConn
		s.must(h.Do(func() (err error) {
			p, err = net.ListenPacket("udp", netip.AddrPortFrom(vip(six), portDatagrams).String())
			return err
		}))
		s.Cleanup(func() { p.Close() })
		go func() {
			b := make([]byte, 1<<16)
			for {
				n, from, err := p.ReadFrom(b)
				if err != nil {
					return
				}
				if string(b[:n]) == late {
					<-s.closed
				}
				_, _ = p.WriteTo(answer(b[:n]), from)
			}
		}()
	}
}

// dial opens a connection to a service, by a port that no other one has had: its entry may be there.
func (s *site) dial(six bool, port uint16) (c net.Conn) {
	s.Helper()
	s.ports++
	network, d := "tcp", net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{Port: s.ports}}
	if port == portDatagrams {
		network, d.LocalAddr = "udp", &net.UDPAddr{Port: s.ports}
	}
	s.must(s.client.Do(func() (err error) {
		c, err = d.Dial(network, netip.AddrPortFrom(vip(six), port).String())
		return err
	}))
	s.Cleanup(func() { c.Close() }) // for what fails before it is closed
	return c
}

// ask sends so many bytes by a connection, and returns the number of the real server that has got them.
func (s *site) ask(c net.Conn, size int) (server byte) {
	s.Helper()
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i * i >> 3)
	}
	out := b
	if _, stream := c.(*net.TCPConn); stream {
		out = append(binary.BigEndian.AppendUint32(nil, uint32(size)), b...)
	}
	s.must(c.SetDeadline(time.Now().Add(patience)))
	_, err := c.Write(out)
	s.must(err)
	var got [5]byte
	_, err = io.ReadFull(c, got[:])
	s.must(err)
	if sum := binary.BigEndian.Uint32(got[1:]); sum != crc32.ChecksumIEEE(b) {
		s.Errorf("a real server has got other bytes than were sent")
	}
	return got[0]
}
