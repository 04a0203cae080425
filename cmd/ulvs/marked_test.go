package main

import (
	"encoding/binary"
	"testing"
)

// A mark that depends on what programs do not look at is the daemon's to decide, though no service has the
// packet's address and port: it goes there also where nobody sees what a program passes, and so do fragments.
func TestMarkByMAC(t *testing.T) {
	t.Parallel()
	for _, plane := range []string{"tcx", "auto"} {
		for name, rule := range map[string]string{"a port": " -p tcp --dport 80", "any": ""} {
			t.Run(plane+", "+name, func(t *testing.T) {
				t.Parallel()
				s := newPinSite(t)
				s.start("--interface", "eth0", "--plane", plane)
				s.commands("ulvs iptables -t mangle -A PREROUTING -d 192.168.10.101/32" + rule + " -m mac --mac-source " +
					s.client.MAC().String() + " -j MARK --set-mark 8\nipvsadm -A -f 8 -s rr\nipvsadm -a -f 8 -r 192.168.10.200 -g")
				for n, flags := range []string{"S", "A", "PA"} {
					s.send(s.frame(1, 80, flags, uint32(1+n)))
					s.got(uint32(1+n), 1)
				}
				f := s.frame(2, 80, "S", 9)
				binary.BigEndian.PutUint16(f[14+6:], 0x2000) // the first of more
				s.send(summed(f))
				s.got(9, 1)
			})
		}
	}
}
