package xdp

import (
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/preselect"
)

// claims are what services there are, and the map by which programs find the service of a first
// packet. The zero value is ready.
type claims struct {
	mu    sync.Mutex
	list  dataplane.Claims
	opens bool                                // programs open connections
	m     *ebpf.Map                           // or nil
	has   map[preselect.Claim]preselect.Found // what is in it
	grace func() error                        // of Plane; nil while no program has the map
}

// open makes the map, if there is none yet.
func (c *claims) open(opens bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m != nil {
		return nil
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "ulvs_claims", Type: ebpf.Hash, KeySize: program.ClaimSize,
		ValueSize: program.FoundSize, MaxEntries: maxClaims, Flags: unix.BPF_F_NO_PREALLOC})
	if err != nil {
		return fmt.Errorf("cannot make a map of services: %w", permitted(err))
	}
	c.m, c.opens, c.has = m, opens, map[preselect.Claim]preselect.Found{}
	return c.put()
}

// set tells the programs of other services than before. grace returns when none is running that
// ran before.
func (c *claims) set(list dataplane.Claims, grace func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list, c.grace = list, grace
	return c.put()
}

// fd is the map's file descriptor, or 0.
func (c *claims) fd() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		return 0
	}
	return c.m.FD()
}

// close gives the map back.
func (c *claims) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m != nil {
		_ = c.m.Close()
		c.m = nil
	}
}

// maxClaims is how many claims the map has room for: more than services that the program opens
// connections of, as a mark may have several. The rest is the slow plane's. An empty map of that
// size takes 2 MiB.
const maxClaims = 2 * preselect.Services

func everyPort(k preselect.Claim) bool { return k[16] == 0 && k[17] == 0 }

func claimKey(c dataplane.Claim) (k preselect.Claim) {
	copy(k[:], c.Addr.AsSlice())
	k[16], k[17], k[18], k[19] = byte(c.Port>>8), byte(c.Port), c.Proto, 4
	if c.Addr.Is6() {
		k[19] = 6
	}
	return k
}

// Claim implements dataplane.Plane: the program opens the services' connections, or gives their
// first packets to the sockets. What is claimed in other ways, by a mark that depends on more
// than the destination or as a range of ports, and SCTP, whose checksum sockets cannot leave to a
// card, are the slow plane's.
func (p *Plane) Claim(c dataplane.Claims) error {
	if err := p.Plane.Claim(c); err != nil {
		return err
	}
	return p.claims.set(c, p.Grace)
}

// put has the map be as it is to be. A port's own claim may be an exception to that of every port,
// which is put and changed only while all exceptions are there: meanwhile it is Go's to decide.
func (c *claims) put() error {
	if c.m == nil {
		return nil
	}
	want := wanted(&c.list, c.opens)
	changes := func(k preselect.Claim) bool {
		to, stays := want[k]
		is, has := c.has[k]
		return stays != has || to != is
	}
	var errs []error
	full, every, own := false, false, false
	for k := range c.has {
		if everyPort(k) && changes(k) {
			_, err := c.tell(k, preselect.Found{Number: dataplane.Undecided})
			errs = append(errs, err)
		}
	}
	for k := range c.has {
		if _, stays := want[k]; !stays && !everyPort(k) {
			c.take(k)
		}
	}
	for k, to := range want {
		switch {
		case !changes(k):
		case everyPort(k):
			every = true
		default:
			put, err := c.tell(k, to)
			full, own, errs = full || !put, true, append(errs, err)
		}
	}
	if own && every && c.grace != nil {
		// Who has not found a port's own claim may be about to look for that of every port.
		errs = append(errs, c.grace())
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for k := range c.has {
		if _, stays := want[k]; !stays {
			c.take(k)
		}
	}
	for k, to := range want {
		if changes(k) && everyPort(k) && !full {
			_, err := c.tell(k, to)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// take takes a claim away.
func (c *claims) take(k preselect.Claim) {
	_ = c.m.Delete(k) // it cannot fail
	delete(c.has, k)
}

// tell puts a claim, and reports whether there was room for it: else it is the slow plane's.
func (c *claims) tell(k preselect.Claim, to preselect.Found) (put bool, err error) {
	switch err := c.m.Put(k, to); {
	case errors.Is(err, unix.E2BIG):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("cannot tell the program of a service: %w", err)
	}
	c.has[k] = to
	return true, nil
}

// wanted returns what the map is to have: marks only for programs that open connections.
func wanted(claims *dataplane.Claims, opens bool) map[preselect.Claim]preselect.Found {
	want := make(map[preselect.Claim]preselect.Found, len(claims.Services)+len(claims.Marked))
	lists := [][]dataplane.Claim{claims.Services}
	if opens {
		lists = append(lists, claims.Marked)
	}
	for _, list := range lists {
		for _, c := range list {
			if c.Last == 0 && !c.Away && (c.Proto == program.ProtoTCP || c.Proto == program.ProtoUDP) {
				want[claimKey(c)] = preselect.Found{Number: c.Service, Serial: c.Serial}
			}
		}
	}
	if len(want) > maxClaims { // a port whose own claim has no room is not to fall to that of every port
		maps.DeleteFunc(want, func(k preselect.Claim, _ preselect.Found) bool { return everyPort(k) })
	}
	return want
}
