package xdp

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
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
	opens bool // programs open connections
	alone bool // what they pass is the host's, and no plane sees it
	// fragments says that programs leave those to Go too.
	fragments bool
	array     *array // or nil
	table     *preselect.Claims
	most      int  // how many it is to have
	asked     int  // how many were wanted last
	lacks     bool // some of those are not there
	rules     rules
	grace     func() error // of Plane; nil while no program has the array
}

// open makes the array, if there is none yet: a smaller one where the kernel has none so large.
func (c *claims) open(opens bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.array != nil {
		return nil
	}
	buckets, most := claimBuckets, maxClaims
	a, err := newArray("ulvs_claims", preselect.ClaimsSize(buckets))
	if errors.Is(err, unix.E2BIG) {
		buckets, most = buckets/4, most/4
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
	if opens {
		if err := c.rules.open(); err != nil {
			a.close()
			return err
		}
	}
	c.array, c.table, c.most, c.opens = a, table, most, opens
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

// in returns the file descriptors of the array and of the rules, and how many buckets there are, or 0.
func (c *claims) in() (claims, buckets, rules int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.array == nil {
		return 0, 0, 0
	}
	return c.array.FD(), c.array.size() / preselect.ClaimsSize(1), c.rules.fd()
}

// close gives the array back.
func (c *claims) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.array != nil {
		c.array.close()
		c.array, c.table = nil, nil
	}
	c.rules.close()
}

// claimBuckets is how many buckets the array has: 10 MiB.
const claimBuckets = 1 << 16

// maxClaims is how many claims the array is to have, half of its places: more than services that the
// program opens connections of, as a mark may have several. The rest is the slow plane's. (In a fuller
// one many would have to move first, each after a grace period.)
const maxClaims = claimBuckets * preselect.ClaimsInBucket / 2

// Claim implements dataplane.Plane: the program opens the services' connections, or gives their
// first packets to the sockets. What is claimed in other ways, by a mark that no list of steps
// leads to or as a range of ports, is the slow plane's; and of SCTP, whose checksum sockets cannot
// leave to a card, what the program does not open.
func (p *Plane) Claim(c dataplane.Claims) error {
	if err := p.Plane.Claim(c); err != nil {
		return err
	}
	families := p.claims.unclaimed(&c)
	tell := func() {
		if p.settings != nil {
			p.settings.setUnclaimed(families | p.claims.lacking())
		}
	}
	tell()
	defer tell()
	return p.claims.set(c, p.Grace)
}

// lacking returns the families of which packets may be for claims that have found no room: where no plane sees
// what programs pass, all that no claim is for is Go's then.
func (c *claims) lacking() (families uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lacks {
		families = program.OpeningBit(false) | program.OpeningBit(true)
	}
	return families
}

// unclaimed returns the families of which packets may be a service's that no claim is for: of a mark that a
// rule gives to more than an address, or of a range of ports. For programs that open no connections marks
// have no claims.
func (cl *claims) unclaimed(c *dataplane.Claims) (families uint32) {
	cl.mu.Lock()
	opens := cl.opens
	cl.mu.Unlock()
	open := func(m *dataplane.AddrMatch) bool {
		one := m.Addr.IsValid() && !m.Not && opens
		for _, b := range m.Mask.AsSlice() {
			one = one && b == 0xff
		}
		return !one
	}
	for _, of := range []struct {
		six   bool
		marks []uint32
		rules []dataplane.MarkRule
	}{{false, c.Marks4, c.Rules4}, {true, c.Marks6, c.Rules6}} {
		for i := range of.rules {
			if r := &of.rules[i]; len(of.marks) > 0 && r.Verb == dataplane.SetMark && open(&r.Dst) {
				families |= program.OpeningBit(of.six)
			}
		}
	}
	type endpoint struct {
		addr  netip.Addr
		proto uint8
	}
	every := map[endpoint]bool{}
	for _, m := range c.Marked {
		if m.Port == 0 && opens {
			every[endpoint{m.Addr, m.Proto}] = true
		}
	}
	for _, s := range c.Services {
		if s.Last != 0 && !every[endpoint{s.Addr, s.Proto}] {
			families |= program.OpeningBit(s.Addr.Is6())
		}
	}
	return families
}

// put has the array be as it is to be. Where rules have no room beside those of before, they get it
// when those have gone.
func (c *claims) put() (err error) {
	if c.array == nil {
		return nil
	}
	defer func() { c.lacks = err != nil || c.table.Len() < c.asked }()
	short, err := c.putAll()
	c.rules.retire(c.table)
	if err != nil || !short {
		return err
	}
	if freed, err := c.rules.reclaim(c.grace); err != nil || !freed {
		return err
	}
	_, err = c.putAll()
	c.rules.retire(c.table)
	return err
}

// putAll is put; short says that there was no room for rules, which are Go's then. A port's own claim
// may be an exception to that of every port, which is put and changed only while all exceptions are
// there: meanwhile it is Go's to decide. What lists lead to is there before them, and goes after them.
func (c *claims) putAll() (short bool, err error) {
	want, short := c.wanted()
	changes := func(k preselect.Claim) bool {
		to, stays := want[k]
		is, has := c.table.Get(k)
		return stays != has || to != is
	}
	var errs []error
	full, every, own, gone, moved := false, false, false, false, false
	for k, is := range c.table.All() {
		if !changes(k) {
			continue
		}
		if moved = moved || isList(is.Number); k.EveryPort() {
			_, err := c.tell(k, preselect.Found{Number: dataplane.Undecided})
			errs = append(errs, err)
		}
	}
	for k := range c.table.All() {
		_, stays := want[k]
		if gone = gone || !stays && k.ByMark(); !stays && !k.EveryPort() && !k.ByMark() {
			c.table.Delete(k)
		}
	}
	if put, err := c.tellMarks(want); err != nil {
		return short, err
	} else if !put {
		undecide(want)
	}
	for k, to := range want {
		switch {
		case !changes(k) || k.ByMark():
		case k.EveryPort():
			every = true
		default:
			put, err := c.tell(k, to)
			if !put {
				err = errors.Join(err, c.yield(k))
			}
			full, own, errs = full || !put, true, append(errs, err)
		}
	}
	if (own && every || gone && moved) && c.grace != nil {
		// Who has not found a port's own claim may be about to look for that of every port, and
		// who has followed a list for that of a mark.
		errs = append(errs, c.grace())
	}
	if err := errors.Join(errs...); err != nil {
		return short, err
	}
	for k := range c.table.All() {
		if _, stays := want[k]; !stays {
			c.table.Delete(k)
		}
	}
	for k, to := range want {
		if changes(k) && k.EveryPort() && !full {
			_, err := c.tell(k, to)
			errs = append(errs, err)
		}
	}
	return short, errors.Join(errs...)
}

// yield has Go decide about the ports that have no claim of their own, as one that is to have it finds
// no room: it is not to fall to the claim of every port that has been there before.
func (c *claims) yield(own preselect.Claim) error {
	own[16], own[17] = 0, 0
	if !c.told(own) {
		return nil
	}
	_, err := c.tell(own, preselect.Found{Number: dataplane.Undecided})
	return err
}

// tellMarks puts the claims of services by mark, and reports whether there was room for all.
func (c *claims) tellMarks(want map[preselect.Claim]preselect.Found) (all bool, err error) {
	all = true
	for k, to := range want {
		if is, has := c.table.Get(k); k.ByMark() && (!has || is != to) {
			put, err := c.tell(k, to)
			if err != nil {
				return false, err
			}
			all = all && put
		}
	}
	return all, nil
}

// undecide has Go decide in the place of lists, which would miss services by mark.
func undecide(want map[preselect.Claim]preselect.Found) {
	for k, to := range want {
		if isList(to.Number) {
			want[k] = preselect.Found{Number: dataplane.Undecided}
		}
	}
}

// tell puts a claim, and reports whether there was room for it: else it is the slow plane's.
func (c *claims) tell(k preselect.Claim, to preselect.Found) (put bool, err error) {
	if c.table.Len() >= c.most && !c.told(k) {
		return false, nil
	}
	put = c.table.Put(k, to)
	for range 4 { // what has gone, and twice for what is moved
		if put || c.table.Left() == 0 {
			break
		}
		if c.grace != nil {
			if err := c.grace(); err != nil {
				return false, err
			}
		}
		c.table.Reclaim()
		put = c.table.Put(k, to)
	}
	return put, nil
}

// told reports whether there is a claim.
func (c *claims) told(k preselect.Claim) bool {
	_, has := c.table.Get(k)
	return has
}

// wanted returns what the array is to have: marks and SCTP only for programs that open connections.
// short says that there was no room for rules.
func (c *claims) wanted() (want map[preselect.Claim]preselect.Found, short bool) {
	want = make(map[preselect.Claim]preselect.Found, len(c.list.Services)+len(c.list.Marked)+len(c.list.ByMark))
	lists := [][]dataplane.Claim{c.list.Services}
	if c.opens {
		lists = append(lists, c.list.Marked)
		for _, m := range c.list.ByMark {
			want[preselect.MarkClaim(m.Mark, m.IPv6)] = preselect.Found{Number: m.Service, Serial: m.Serial}
		}
	}
	c.rules.known = map[*dataplane.MarkList]uint32{}
	for _, list := range lists {
		for _, one := range list {
			opened := one.Proto == program.ProtoTCP || one.Proto == program.ProtoUDP ||
				c.opens && one.Proto == program.ProtoSCTP
			if one.Away {
				continue
			}
			if c.alone {
				want[preselect.AddressClaim(one.Addr)] = preselect.Found{Number: dataplane.Undecided}
			}
			if c.fragments && opened && one.Service != dataplane.Elsewhere {
				want[preselect.FragmentClaim(one.Addr, one.Proto)] = preselect.Found{Number: dataplane.Undecided}
			}
			if one.Last != 0 || !opened {
				continue
			}
			to := preselect.Found{Number: one.Service, Serial: one.Serial}
			if one.List != nil {
				number, ok := c.rules.place(one.List)
				if to.Number, to.Else = number, one.Service; !ok {
					to, short = preselect.Found{Number: dataplane.Undecided}, true
				}
			}
			want[preselect.ServiceClaim(one.Addr, one.Port, one.Proto)] = to
		}
	}
	for _, one := range c.list.Open {
		if key := preselect.ServiceClaim(one.Addr, one.Port, one.Proto); c.alone {
			want[preselect.AddressClaim(one.Addr)] = preselect.Found{Number: dataplane.Undecided}
			want[key] = preselect.Found{Number: dataplane.Undecided}
		}
	}
	if c.asked = len(want); c.asked > c.most { // a port whose own claim has no room is not to fall to that of every port
		maps.DeleteFunc(want, func(k preselect.Claim, _ preselect.Found) bool { return k.EveryPort() })
	}
	return want, short
}
