package forward

import (
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/persist"
	"github.com/ulvs/ulvs/sched"
)

// defense is what drop_entry, drop_packet and secure_tcp have come to
// (ip_vs_ctl.c, update_defense_level). The forwarding lock guards it.
type defense struct {
	next     uint32 // tick of the next look
	entries  bool   // drop_entry is active
	rate     int    // one packet of so many is dropped; 0: none
	counter  int
	stale    [9]int // counters of todrop_entry, by packets that an entry had
	freePage func() int
}

// due reports whether a second has passed.
func (v *defense) due(tick uint32) bool {
	if int32(tick-v.next) < 0 {
		return false
	}
	v.next = tick + hz
	return true
}

// defend brings the three defences up to date, and reports whether entries are
// to be dropped. Modes 1 and 2 go over into one another with the memory that
// the system has free.
func (d *Path) defend() (dropEntries bool) {
	s, v := d.sysctl, &d.defense
	if s.DropEntry == 0 && s.DropPacket == 0 && s.SecureTCP == 0 {
		v.entries, v.rate = false, 0
		d.conns.SetSecure(false)
		return false
	}
	free := freePages()
	if v.freePage != nil {
		free = v.freePage()
	}
	short := free < s.AmemThresh
	active := func(mode *int) bool {
		switch {
		case *mode == 1 && short:
			*mode = 2
		case *mode == 2 && !short:
			*mode = 1
		}
		return *mode >= 2
	}
	v.entries = active(&s.DropEntry)
	switch active(&s.DropPacket) {
	case false:
		v.rate = 0
	case true:
		v.rate = s.AmDropRate
		if s.DropPacket == 2 {
			v.rate = s.AmemThresh / (s.AmemThresh - free)
			v.counter = v.rate
		}
	}
	d.conns.SetSecure(active(&s.SecureTCP))
	return v.entries
}

// todrop reports whether drop_packet takes this packet (ip_vs_todrop).
func (v *defense) todrop() bool {
	if v.rate == 0 {
		return false
	}
	if v.counter--; v.counter > 0 {
		return false
	}
	v.counter = v.rate
	return true
}

// shed looks at a thirty-second part of all entries, chosen at random, and ends
// those that are worth least (ip_vs_conn.c, ip_vs_random_dropentry).
func (d *Path) shed(now uint32) {
	const chunk = 256
	d.lock()
	conns, templates := d.conns.Slots(), d.templates.Slots()
	d.unlock()
	each := func(slots int, f func(i uint32)) {
		for left := slots / 32; left > 0; left -= chunk {
			d.lock()
			for range min(left, chunk) {
				f(rand.Uint32N(uint32(slots)))
			}
			d.unlock()
		}
	}
	each(conns, func(i uint32) {
		id := conn.ID(i)
		if !d.conns.Live(id) {
			return
		}
		switch d.conns.Worth(id) {
		case conn.Keep:
			return
		case conn.IfStale:
			if !d.defense.takesIdle(d.conns.Idle(id, now), d.conns.Packets(id)) {
				return
			}
		}
		ct := d.conns.Template(id)
		d.removeConn(id)
		d.shedCount++
		// What it leaves without a connection goes too, unless assured.
		if t := persist.ID(ct - 1); ct != 0 && d.templates.Controls(t) == 0 && !d.templates.Assured(t) {
			d.templates.Remove(t)
		}
	})
	each(templates, func(i uint32) {
		id := persist.ID(i)
		if !d.templates.Live(id) || d.templates.Controls(id) > 0 {
			return
		}
		if d.table.dests[d.templates.Dest(id)].svc.OnePacket {
			if !d.defense.takesIdle(d.templates.Idle(id, now), d.templates.Packets(id)) {
				return
			}
		} else if d.templates.Assured(id) {
			return
		}
		d.templates.Remove(id)
		d.shedCount++
	})
}

// SweepNoDest ends every connection and template whose real server is gone, with
// expire_nodest_conn; the kernel does so in the background
// (ip_vs_conn.c, ip_vs_expire_nodest_conn_flush).
func (d *Path) SweepNoDest() {
	d.lock()
	on := d.sysctl.ExpireNodestConn != 0
	d.unlock()
	if !on {
		return
	}
	const chunk = 4096
	for at, more := conn.ID(0), true; more; {
		d.lock()
		at, more = d.conns.Each(at, chunk, func(id conn.ID) {
			if !d.table.dests[d.conns.Dest(id)].available {
				d.removeConn(id)
			}
		})
		d.unlock()
	}
	for at, more := persist.ID(0), true; more; {
		d.lock()
		at, more = d.templates.Each(at, chunk, func(id persist.ID) {
			if d.templates.Controls(id) == 0 && !d.table.dests[d.templates.Dest(id)].available {
				d.templates.Remove(id)
			}
		})
		d.unlock()
	}
}

// takesIdle picks among entries that were idle for a minute, and the fewer packets
// they had the oftener (ip_vs_conn.c, todrop_entry).
func (v *defense) takesIdle(idle, packets uint32) bool {
	if idle < 60*hz || packets < 1 || packets > 8 {
		return false
	}
	n := &v.stale[packets]
	if *n--; *n > 0 {
		return false
	}
	*n = int(packets)
	return true
}

// freePages is the memory that the system has free, in pages, as si_meminfo
// counts it.
func freePages() int {
	var s unix.Sysinfo_t
	if unix.Sysinfo(&s) != nil {
		return int(^uint(0) >> 1)
	}
	return int((uint64(s.Freeram) + uint64(s.Bufferram)) * uint64(s.Unit) / uint64(os.Getpagesize()))
}

// SetSysctl sets net.ipv4.vs.NAME. effect says that it changes something in direct
// routing.
func (d *Path) SetSysctl(name string, value int) (effect bool, err error) {
	d.lock()
	defer d.unlock()
	defer d.opener.update()
	if _, ok := d.sysctl.Get(name); !ok {
		return false, fmt.Errorf("%w: net.ipv4.vs.%s; ulvs has %v", ulvs.ErrUnsupported, name, d.sysctl.Names())
	}
	if effect, err = d.sysctl.Set(name, value); err != nil {
		return false, fmt.Errorf("%w: net.ipv4.vs.%v", ulvs.ErrInvalid, err)
	}
	d.defend()
	for s := range d.table.Each {
		d.remember(s)
	}
	return effect, nil
}

// remember tells a service's scheduler, if it forgets, for how long it does not
// (lblc_expiration, lblcr_expiration). The caller holds the lock.
func (d *Path) remember(s *Service) {
	f, ok := s.scheduler.(sched.Forgetful)
	if !ok {
		return
	}
	seconds := d.sysctl.LblcExpiration
	if s.Scheduler == "lblcr" {
		seconds = d.sysctl.LblcrExpiration
	}
	f.SetExpiration(time.Duration(seconds) * time.Second)
}
