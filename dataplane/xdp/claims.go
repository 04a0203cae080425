package xdp

import (
	"errors"
	"fmt"
	"maps"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/dataplane/xdp/program"
	"github.com/ulvs/ulvs/internal/preselect"
)

// claims are what services there are, and the array in which programs find the service of a first
// packet. The zero value is ready.
type claims struct {
	mu    sync.Mutex
	list  dataplane.Claims
	opens bool   // programs open connections
	array *array // or nil
	table *preselect.Claims
	has   map[preselect.Claim]preselect.Found // what is in it
	grace func() error                        // of Plane; nil while no program has the array
}

// open makes the array, if there is none yet: a smaller one where the kernel has none so large.
func (c *claims) open(opens bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.array != nil {
		return nil
	}
	buckets := claimBuckets
	a, err := newArray("ulvs_claims", preselect.ClaimsSize(buckets))
	if errors.Is(err, unix.E2BIG) {
		buckets /= 4
		a, err = newArray("ulvs_claims", preselect.ClaimsSize(buckets))
	}
	if err != nil {
		return fmt.Errorf("no memory for services: %w", err)
	}
	table, err := preselect.NewClaims(a.memory[:a.size()], buckets)
	if err != nil {
		a.close()
		return err
	}
	c.array, c.table, c.opens, c.has = a, table, opens, map[preselect.Claim]preselect.Found{}
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

// in returns the array's file descriptor and how many buckets it has, or 0.
func (c *claims) in() (fd, buckets int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.array == nil {
		return 0, 0
	}
	return c.array.FD(), c.array.size() / preselect.ClaimsSize(1)
}

// close gives the array back.
func (c *claims) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.array != nil {
		c.array.close()
		c.array, c.table = nil, nil
	}
}

// claimBuckets is how many buckets the array has: 8 MiB.
const claimBuckets = 1 << 16

// maxClaims is how many claims the array is to have, half of its places: more than services that the
// program opens connections of, as a mark may have several. The rest is the slow plane's.
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
// than the destination or as a range of ports, is the slow plane's; and of SCTP, whose checksum
// sockets cannot leave to a card, what the program does not open.
func (p *Plane) Claim(c dataplane.Claims) error {
	if err := p.Plane.Claim(c); err != nil {
		return err
	}
	return p.claims.set(c, p.Grace)
}

// put has the array be as it is to be. A port's own claim may be an exception to that of every port,
// which is put and changed only while all exceptions are there: meanwhile it is Go's to decide.
func (c *claims) put() error {
	if c.array == nil {
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
	c.table.Delete(k)
	delete(c.has, k)
}

// tell puts a claim, and reports whether there was room for it: else it is the slow plane's.
func (c *claims) tell(k preselect.Claim, to preselect.Found) (put bool, err error) {
	if len(c.has) >= maxClaims && !c.told(k) {
		return false, nil
	}
	put = c.table.Put(k, to)
	if !put && c.table.Left() > 0 {
		if c.grace != nil {
			if err := c.grace(); err != nil {
				return false, err
			}
		}
		c.table.Reclaim()
		put = c.table.Put(k, to)
	}
	if put {
		c.has[k] = to
	}
	return put, nil
}

// told reports whether there is a claim.
func (c *claims) told(k preselect.Claim) bool {
	_, has := c.has[k]
	return has
}

// wanted returns what the array is to have: marks and SCTP only for programs that open connections.
func wanted(claims *dataplane.Claims, opens bool) map[preselect.Claim]preselect.Found {
	want := make(map[preselect.Claim]preselect.Found, len(claims.Services)+len(claims.Marked))
	lists := [][]dataplane.Claim{claims.Services}
	if opens {
		lists = append(lists, claims.Marked)
	}
	for _, list := range lists {
		for _, c := range list {
			if c.Last == 0 && !c.Away && (c.Proto == program.ProtoTCP || c.Proto == program.ProtoUDP ||
				opens && c.Proto == program.ProtoSCTP) {
				want[claimKey(c)] = preselect.Found{Number: c.Service, Serial: c.Serial}
			}
		}
	}
	if len(want) > maxClaims { // a port whose own claim has no room is not to fall to that of every port
		maps.DeleteFunc(want, func(k preselect.Claim, _ preselect.Found) bool { return everyPort(k) })
	}
	return want
}
