package ulvs

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/fwmark"
	"github.com/ulvs/ulvs/persist"
	"github.com/ulvs/ulvs/sched"
)

// service is a virtual service at work.
type service struct {
	Service
	scheduler sched.Scheduler
	dests     []*dest // newest first, as the kernel's list; replaced, never edited
	form      persist.Form
	order     uint64 // when it was added
	estimator
}

// dest is a real server at work. It outlives its place in a service as long as
// connections or templates refer to it.
type dest struct {
	sched.Dest
	conf      Destination
	svc       *service
	hop       *dataplane.NextHop
	available bool
	refs      int    // connections and templates
	idle      uint32 // tick since which the trash has seen it without any
	estimator
}

// addrKey finds a service by address. Addresses are as in sched.Request.
type addrKey struct {
	addr  [16]byte
	port  uint16
	proto uint8
	is6   bool
}

// table is what the commands set up: services, real servers, marks. The
// director's forwarding lock guards it.
type table struct {
	byAddr map[addrKey]*service
	byMark [2]map[uint32]*service // IPv4, IPv6
	ftp    int                    // services on port 21
	null   int                    // services on port 0
	added  uint64
	dests  []*dest // by number; nil: free
	free   []uint32
	trash  []*dest
	// trashAt is the tick at which the trash is looked at next.
	trashAt uint32
	sets    [2]*fwmark.Set // IPv4, IPv6
	// vips are the addresses that belong to services: with how many, or as
	// destinations of mark rules.
	vips map[netip.Addr]int
	// markVIPs are those of vips that only mark rules name.
	markVIPs map[netip.Addr]bool
}

func newTable() table {
	return table{
		byAddr:   map[addrKey]*service{},
		byMark:   [2]map[uint32]*service{{}, {}},
		dests:    make([]*dest, 1), // 0 is no destination
		vips:     map[netip.Addr]int{},
		markVIPs: map[netip.Addr]bool{},
	}
}

func family(is6 bool) int {
	if is6 {
		return 1
	}
	return 0
}

func keyOf(addr netip.Addr, port uint16, proto Protocol) addrKey {
	k := addrKey{port: port, proto: uint8(proto), is6: addr.Is6()}
	copy(k.addr[:], addr.AsSlice())
	return k
}

// find is the service with exactly this key, or nil.
func (t *table) find(k ServiceKey) *service {
	if k.Mark != 0 {
		return t.byMark[family(k.IPv6)][k.Mark]
	}
	return t.byAddr[keyOf(k.Addr, k.Port, k.Protocol)]
}

// lookup is the service of a packet (ip_vs_ctl.c, ip_vs_service_find): by mark,
// then by address and port, then FTP's for the ports of its data connections,
// then port zero.
func (t *table) lookup(k addrKey, mark uint32) *service {
	if mark != 0 {
		if s := t.byMark[family(k.is6)][mark]; s != nil {
			return s
		}
	}
	if s := t.byAddr[k]; s != nil {
		return s
	}
	port := k.port
	if t.ftp > 0 && Protocol(k.proto) == TCP && (port == ftpDataPort || port >= unprivileged) {
		k.port = ftpPort
		if s := t.byAddr[k]; s != nil {
			return s
		}
	}
	if t.null > 0 {
		k.port = 0
		return t.byAddr[k]
	}
	return nil
}

const (
	ftpPort     = 21
	ftpDataPort = 20
	// unprivileged is the first port that needs no privilege
	// (net.ipv4.ip_unprivileged_port_start).
	unprivileged = 1024
)

func (t *table) dest(id uint32) *dest { return t.dests[id] }

// addService puts in a service that find does not find.
func (t *table) addService(s *service) {
	t.added++
	s.order = t.added
	if s.Mark != 0 {
		t.byMark[family(s.IPv6)][s.Mark] = s
	} else {
		t.byAddr[keyOf(s.Addr, s.Port, s.Protocol)] = s
		t.vips[s.Addr]++
	}
	t.countPorts(s, 1)
}

// countPorts keeps the counts that switch lookup's last two steps on. A mark's
// service has port 0, and counts as the kernel counts it.
func (t *table) countPorts(s *service, n int) {
	switch s.Port {
	case ftpPort:
		t.ftp += n
	case 0:
		t.null += n
	}
}

// removeService takes a service out; its destinations go to the trash.
func (t *table) removeService(s *service, now uint32) {
	if s.Mark != 0 {
		delete(t.byMark[family(s.IPv6)], s.Mark)
	} else {
		delete(t.byAddr, keyOf(s.Addr, s.Port, s.Protocol))
		if t.vips[s.Addr]--; t.vips[s.Addr] == 0 {
			delete(t.vips, s.Addr)
		}
	}
	t.countPorts(s, -1)
	for _, d := range s.dests {
		t.discard(d, now)
	}
}

// addDest puts a destination at the head of its service's list.
func (t *table) addDest(s *service, d *dest) {
	if d.ID == 0 {
		if n := len(t.free); n > 0 {
			d.ID = t.free[n-1]
			t.free = t.free[:n-1]
		} else {
			d.ID = uint32(len(t.dests))
			t.dests = append(t.dests, nil)
		}
		t.dests[d.ID] = d
	}
	d.svc = s
	d.available = true
	s.dests = append([]*dest{d}, s.dests...)
	s.scheduler.Added(s.schedDests(), &d.Dest)
}

func (t *table) removeDest(s *service, d *dest, now uint32) {
	s.dests = slices.DeleteFunc(slices.Clone(s.dests), func(x *dest) bool { return x == d })
	s.scheduler.Removed(s.schedDests(), &d.Dest)
	t.discard(d, now)
}

// discard puts a destination into the trash, where it waits for its last
// connection, or to be added again (__ip_vs_del_dest).
func (t *table) discard(d *dest, now uint32) {
	d.available = false
	d.idle = 0
	if len(t.trash) == 0 {
		t.trashAt = now + trashPeriod/2
	}
	t.trash = append(t.trash, d)
}

// trashPeriod is how long a destination without connections stays in the
// trash after that was noticed (IP_VS_DEST_TRASH_PERIOD).
const trashPeriod = 120 * hz

// fromTrash takes a destination out of the trash that the service had before
// (ip_vs_trash_get_dest).
func (t *table) fromTrash(s *service, at netip.AddrPort) *dest {
	for i, d := range t.trash {
		if d.conf.AddrPort() == at && d.svc.ServiceKey == s.ServiceKey {
			t.trash = slices.Delete(t.trash, i, i+1)
			return d
		}
	}
	return nil
}

// emptyTrash drops what has had no connections for long enough and returns it
// (ip_vs_dest_trash_expire).
func (t *table) emptyTrash(now uint32) (gone []*dest) {
	if len(t.trash) == 0 || int32(now-t.trashAt) < 0 {
		return nil
	}
	t.trashAt = now + trashPeriod/2
	t.trash = slices.DeleteFunc(t.trash, func(d *dest) bool {
		switch {
		case d.refs > 0:
			return false
		case d.idle == 0:
			d.idle = max(now, 1)
			return false
		case now-d.idle < trashPeriod:
			return false
		}
		t.dests[d.ID] = nil
		t.free = append(t.free, d.ID)
		gone = append(gone, d)
		return true
	})
	return gone
}

func (s *service) schedDests() []*sched.Dest {
	list := make([]*sched.Dest, len(s.dests))
	for i, d := range s.dests {
		list[i] = &d.Dest
	}
	return list
}

func (s *service) find(at netip.AddrPort) *dest {
	for _, d := range s.dests {
		if d.conf.AddrPort() == at {
			return d
		}
	}
	return nil
}

// services are all services in a fixed order like the kernel's, which lists
// those with an address before those with a mark, each in the order of a hash.
func (t *table) services() []*service {
	list := slices.Collect(maps.Values(t.byAddr))
	slices.SortFunc(list, func(a, b *service) int {
		return cmp.Or(cmp.Compare(hashOf(a), hashOf(b)), cmp.Compare(b.order, a.order))
	})
	for _, m := range t.byMark {
		marks := slices.Collect(maps.Values(m))
		slices.SortFunc(marks, func(a, b *service) int {
			return cmp.Or(cmp.Compare(a.Mark&0xff, b.Mark&0xff), cmp.Compare(b.order, a.order))
		})
		list = append(list, marks...)
	}
	return list
}

// hashOf is the service's place in the kernel's table
// (ip_vs_ctl.c, ip_vs_svc_hashkey), but for what depends on the namespace.
func hashOf(s *service) uint8 {
	var fold uint32
	a := s.Addr.AsSlice()
	for i := 0; i < len(a); i += 4 {
		fold ^= uint32(a[i])<<24 | uint32(a[i+1])<<16 | uint32(a[i+2])<<8 | uint32(a[i+3])
	}
	return uint8(uint32(s.Protocol) ^ fold ^ uint32(s.Port)>>8 ^ uint32(s.Port))
}

// claims are what the plane has to keep from the host: packets of services,
// and of connections whose service is gone.
func (t *table) claims() (c dataplane.Claims) {
	seen := map[dataplane.Claim]bool{}
	marks := [2]map[uint32]bool{{}, {}}
	add := func(k ServiceKey) {
		if k.Mark != 0 {
			marks[family(k.IPv6)][k.Mark] = true
			return
		}
		cl := dataplane.Claim{Addr: k.Addr, Proto: uint8(k.Protocol), Port: k.Port}
		if !seen[cl] {
			seen[cl] = true
			c.Services = append(c.Services, cl)
		}
	}
	for _, s := range t.services() {
		add(s.ServiceKey)
	}
	for _, d := range t.trash {
		add(d.svc.ServiceKey)
	}
	c.Marks4 = slices.Sorted(maps.Keys(marks[0]))
	c.Marks6 = slices.Sorted(maps.Keys(marks[1]))
	return c
}
