// Package sysctl holds the values of net.ipv4.vs, with the kernel's names,
// defaults and limits (net/netfilter/ipvs/ip_vs_ctl.c, vs_vars and
// ip_vs_control_net_init_sysctl).
package sysctl

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Values are those that a director in direct routing feels. Make them with
// Defaults.
type Values struct {
	AmDropRate              int // am_droprate: one packet of so many, with drop_packet=3
	AmemThresh              int // amemthresh: pages of free memory, below which modes 1 become active
	ConnReuseMode           int
	DropEntry               int // a mode, as the next two: 0 never, 1 when memory is short, 2 it is, 3 always
	DropPacket              int
	SecureTCP               int
	ExpireNodestConn        int
	ExpireQuiescentTemplate int
	LblcExpiration          int // lblc_expiration and lblcr_expiration: in seconds
	LblcrExpiration         int
	RunEstimation           int
	ScheduleICMP            int // schedule_icmp: an ICMP error may open the connection that it is about
	SloppySCTP              int
	SloppyTCP               int

	idle map[string]int // those without effect here
}

// Defaults are the kernel's.
func Defaults() *Values {
	return &Values{
		AmDropRate: 10, AmemThresh: 1024, ConnReuseMode: 1, RunEstimation: 1,
		LblcExpiration: 24 * 60 * 60, LblcrExpiration: 24 * 60 * 60,
		idle: map[string]int{
			"backup_only": 0, "cache_bypass": 0, "conntrack": 0, "ignore_tunneled": 0, "nat_icmp_send": 0, "pmtu_disc": 1,
			"snat_reroute": 1, "sync_persist_mode": 0, "sync_ports": 1, "sync_refresh_period": 0,
			"sync_retries": 0, "sync_sock_size": 0, "sync_version": 1,
		},
	}
}

type entry struct {
	value *int
	mode  bool // 0 to 3
}

func (v *Values) find(name string) (entry, bool) {
	e, ok := map[string]entry{
		"am_droprate":               {value: &v.AmDropRate},
		"amemthresh":                {value: &v.AmemThresh},
		"conn_reuse_mode":           {value: &v.ConnReuseMode},
		"drop_entry":                {&v.DropEntry, true},
		"drop_packet":               {&v.DropPacket, true},
		"secure_tcp":                {&v.SecureTCP, true},
		"expire_nodest_conn":        {value: &v.ExpireNodestConn},
		"expire_quiescent_template": {value: &v.ExpireQuiescentTemplate},
		"lblc_expiration":           {value: &v.LblcExpiration},
		"lblcr_expiration":          {value: &v.LblcrExpiration},
		"run_estimation":            {value: &v.RunEstimation},
		"schedule_icmp":             {value: &v.ScheduleICMP},
		"sloppy_sctp":               {value: &v.SloppySCTP},
		"sloppy_tcp":                {value: &v.SloppyTCP},
	}[name]
	return e, ok
}

var effective = []string{
	"am_droprate", "amemthresh", "conn_reuse_mode", "drop_entry", "drop_packet", "expire_nodest_conn",
	"expire_quiescent_template", "lblc_expiration", "lblcr_expiration", "run_estimation", "schedule_icmp", "secure_tcp", "sloppy_sctp", "sloppy_tcp",
}

// Names are all that there are, sorted.
func (v *Values) Names() []string {
	return slices.Sorted(slices.Values(append(slices.Collect(maps.Keys(v.idle)), effective...)))
}

// Get is the value of a name; false if there is none.
func (v *Values) Get(name string) (int, bool) {
	if e, ok := v.find(name); ok {
		return *e.value, true
	}
	n, ok := v.idle[name]
	return n, ok
}

// Set sets a value. effect is false for one that is kept, and changes nothing
// in direct routing without a sync daemon. The error says why the kernel would
// refuse it.
func (v *Values) Set(name string, n int) (effect bool, err error) {
	if int(int32(n)) != n {
		return false, fmt.Errorf("%s=%d: use a number of 32 bits", name, n)
	}
	if e, ok := v.find(name); ok {
		if e.mode && (n < 0 || n > 3) {
			return false, fmt.Errorf("%s=%d: use 0 to 3", name, n)
		}
		*e.value = n
		return true, nil
	}
	if _, ok := v.idle[name]; !ok {
		return false, fmt.Errorf("%s: there is none of that name, but %s", name, strings.Join(v.Names(), ", "))
	}
	v.idle[name] = n
	return false, nil
}
