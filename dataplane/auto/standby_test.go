package auto_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane/auto"
	"github.com/ulvs/ulvs/packet"
)

// A datagram to the host's own port of a service's address, of which the last fragment comes first, gets to the host,
// also where nftables keep fragments for that address away from it.
func TestStandbyFragments(t *testing.T) {
	for _, plane := range []string{auto.TCX, auto.AFPacket} {
		t.Run(plane, func(t *testing.T) {
			s := newStreet(t, shape{plane: plane, standby: true})
			lo, err := s.director.Netlink().LinkByName("lo")
			s.must(err)
			s.must(s.director.Netlink().AddrAdd(lo, &netlink.Addr{IPNet: netlink.NewIPNet(vip(false).AsSlice())}))
			s.offer(ulvs.UDP, portEarly, "rr")
			const own = 999
			var l net.PacketConn
			s.must(s.director.Do(func() (err error) {
				l, err = net.ListenPacket("udp", netip.AddrPortFrom(vip(false), own).String())
				return err
			}))
			defer l.Close()
			whole := s.frame(s.flow(ulvs.UDP, own), 7)
			whole = append(whole, make([]byte, 28)...)
			const ip, data, size = 14, 14 + 20, 40
			binary.BigEndian.PutUint16(whole[data+4:], size)
			binary.BigEndian.PutUint16(whole[data+6:], 0) // no checksum
			piece := func(id, from, to int) []byte {
				b := append([]byte(nil), whole[:data]...)
				b = append(b, whole[data+from:data+to]...)
				field := uint16(from / 8)
				if to < size {
					field |= 0x2000
				}
				binary.BigEndian.PutUint16(b[ip+2:], uint16(20+to-from))
				binary.BigEndian.PutUint16(b[ip+4:], uint16(id))
				binary.BigEndian.PutUint16(b[ip+6:], field)
				binary.BigEndian.PutUint16(b[ip+10:], 0)
				binary.BigEndian.PutUint16(b[ip+10:], packet.Checksum(b[ip:data]))
				return b
			}
			id, got := 0, make([]byte, 100)
			s.until("the host gets the datagram", func() bool {
				id++
				for _, b := range [][]byte{piece(id, 16, size), piece(id, 0, 16)} {
					s.must(unix.Sendto(s.fd, b, 0, &unix.SockaddrLinklayer{Ifindex: s.top.Attrs().Index}))
				}
				s.must(l.SetReadDeadline(time.Now().Add(200 * time.Millisecond)))
				n, _, err := l.ReadFrom(got)
				return err == nil && n == size-8
			})
		})
	}
}
