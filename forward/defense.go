package forward

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
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
func (tb *tables) defend() (dropEntries bool) {
	s, v := tb.sysctl, &tb.defense
	if s.DropEntry == 0 && s.DropPacket == 0 && s.SecureTCP == 0 {
		v.entries, v.rate = false, 0
		tb.conns.SetSecure(false)
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
	tb.conns.SetSecure(active(&s.SecureTCP))
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

// freePages returns the memory that the system has free, in pages, as si_meminfo
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
func (cm *Commands) SetSysctl(name string, value int) (effect bool, err error) {
	cm.change(func() { effect, err = cm.setSysctl(name, value) })
	if err == nil && name == "expire_quiescent_template" {
		cm.opener.limitAll()
	}
	return effect, err
}

func (cm *Commands) setSysctl(name string, value int) (effect bool, err error) {
	if _, ok := cm.sysctl.Get(name); !ok {
		return false, fmt.Errorf("%w: net.ipv4.vs.%s; ulvs has %s", ulvs.ErrUnsupported, name,
			strings.Join(cm.sysctl.Names(), ", "))
	}
	if effect, err = cm.sysctl.Set(name, value); err != nil {
		return false, fmt.Errorf("%w: net.ipv4.vs.%v", ulvs.ErrInvalid, err)
	}
	cm.defend()
	for s := range cm.index.Each {
		cm.remember(s)
	}
	return effect, nil
}

// remember tells a service's scheduler, if it forgets, for how long it does not
// (lblc_expiration, lblcr_expiration). The caller holds the lock.
func (tb *tables) remember(s *Service) {
	f, ok := s.scheduler.(sched.Forgetful)
	if !ok {
		return
	}
	seconds := tb.sysctl.LblcExpiration
	if s.Scheduler == "lblcr" {
		seconds = tb.sysctl.LblcrExpiration
	}
	f.SetExpiration(time.Duration(seconds) * time.Second)
}
