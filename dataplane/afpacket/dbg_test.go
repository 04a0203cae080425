package afpacket
import ("testing";"github.com/ulvs/ulvs/dataplane";"fmt";"time")
func TestDbg(t *testing.T) {
	l := newLab(t)
	r, _ := bench(t, l)
	var c counters
	var s *sender
	idx := l.ifindex(client,"eth0")
	l.in(client, func(){ var err error; s, err = newSender(idx,&c); l.must(err)})
	large := udp(macOf(director), make([]byte, 9000))
	gso := dataplane.Offload{Flags: dataplane.NeedsChecksum, GSOType: 1, GSOSize: 1400, HdrLen: 54, CsumStart: 34, CsumOffset: 16}
	large[macLen+9] = 6
	large[macLen+32] = 5 << 4
	for i:=0;i<3;i++ { s.put(large,gso,0,nil); s.flush() }
	time.Sleep(100*time.Millisecond)
	fmt.Println(c.all(), r.step(forwarder{l.hop(server)}), r.p.Counters())
}
