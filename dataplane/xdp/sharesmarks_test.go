package xdp

import (
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
)

// Where the program follows the rules of a client's mark, Go has not opened a connection because of
// the mark: another cause is what keeps the program from it. Only what no step of a list looks at is
// the mark's.
func TestSharesByClient(t *testing.T) {
	w := newSharing(t)
	w.add(ulvs.Service{ServiceKey: tcpAt(80), Scheduler: "rr"})
	w.add(ulvs.Service{ServiceKey: ulvs.ServiceKey{Mark: 10}, Scheduler: "rr"})
	w.rules("-A PREROUTING -s 10.0.0.0/8 -d 192.168.10.101 -p tcp --dport 80 -j MARK --set-mark 10",
		"-A PREROUTING -s 11.0.0.0/8 -d 192.168.10.101 -p tcp --dport 80 --tcp-flags URG URG -j MARK --set-mark 10")
	marked, plain, flags := [4]byte{10, 7, 0, 1}, [4]byte{12, 7, 0, 1}, [4]byte{11, 7, 0, 1}
	syn := func(from [4]byte) func() { return func() { w.send(w.syn(80, from[:]...)) } }
	w.wants("", syn(marked))
	w.wants("", syn(plain))
	w.wants("mark", syn(flags))

	for i := range 2 {
		w.resolver.Set(pairServer(false, i), dataplane.Neighbor{})
	}
	w.move(time.Second)
	w.wants("hop", syn(marked))
	w.wants("hop", syn(plain))
	w.wants("mark", syn(flags))

	w.sysctl("secure_tcp", 3)
	w.wants("defense", syn(marked))
}
