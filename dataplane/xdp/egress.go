package xdp

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/ulvs/ulvs/internal/accel"
)

// egress knows by which interfaces programs send. A server that is reached by another one is
// Go's, until that has a program; but programs at an ingress send by all, as a VLAN device over a trunk.
type egress struct {
	any bool // constant: there are programs at an ingress, which get what those in drivers pass

	mu   sync.Mutex
	out  map[int]bool            // true: from there a program in the driver sends, to which others may hand frames
	told map[uint32]accel.Server // all that are reachable, as they were told
}

// set tells the programs where a server is.
func (e *egress) set(id uint32, s accel.Server, servers []server) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.told == nil {
		e.told = map[uint32]accel.Server{}
	}
	delete(e.told, id)
	if s.Reachable {
		e.told[id] = s
	}
	e.put(id, s, servers)
}

// seen is a server as programs see it.
func (e *egress) seen(s accel.Server) accel.Server {
	if _, out := e.out[s.Ifindex]; !out && !e.any {
		return accel.Server{}
	}
	return s
}

// put has the programs know where a server is.
func (e *egress) put(id uint32, s accel.Server, servers []server) {
	redirect := uint32(0)
	if e.out[s.Ifindex] {
		redirect = 1
	}
	atomic.StoreUint32(&servers[id].redirect, redirect)
	servers[id].set(e.seen(s))
}

// settle has programs send by other interfaces than before.
func (e *egress) settle(out map[int]bool, servers []server) {
	e.mu.Lock()
	defer e.mu.Unlock()
	before := e.out
	if e.out = out; maps.Equal(before, out) {
		return
	}
	for id, s := range e.told {
		native, had := before[s.Ifindex]
		if is, has := out[s.Ifindex]; has != had || is != native {
			e.put(id, s, servers)
		}
	}
}
