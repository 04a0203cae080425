package ulvs

import (
	"net/netip"
	"time"
)

// Stats are counters since the start or the last Zero. Out is always 0 in
// direct routing: the real servers answer the clients without the director.
type Stats struct {
	Conns    uint64 `json:"conns"`
	InPkts   uint64 `json:"in_pkts"`
	OutPkts  uint64 `json:"out_pkts"`
	InBytes  uint64 `json:"in_bytes"`
	OutBytes uint64 `json:"out_bytes"`
}

// Rate is what the kernel's estimator makes of Stats: an average over about
// eight seconds, brought up to date every two
// (net/netfilter/ipvs/ip_vs_est.c).
type Rate struct {
	CPS    uint64 `json:"cps"`     // connections a second
	InPPS  uint64 `json:"in_pps"`  // packets a second
	OutPPS uint64 `json:"out_pps"` // 0 in direct routing
	InBPS  uint64 `json:"in_bps"`  // bytes a second
	OutBPS uint64 `json:"out_bps"` // 0 in direct routing
}

// ServiceStatus is a service as it stands.
type ServiceStatus struct {
	Service
	Stats Stats `json:"stats"`
	Rate  Rate  `json:"rate"`
	// Destinations are in the kernel's order, newest first.
	Destinations []DestinationStatus `json:"destinations"`
}

// DestinationStatus is a real server as it stands.
type DestinationStatus struct {
	Destination
	ActiveConns  uint32 `json:"active_conns"`
	InactConns   uint32 `json:"inact_conns"`
	PersistConns uint32 `json:"persist_conns"`
	Stats        Stats  `json:"stats"`
	Rate         Rate   `json:"rate"`
}

// ConnStatus is one line of ipvsadm -Lc: a connection or a template.
type ConnStatus struct {
	// Protocol is 0 (IP) for the template of a firewall-mark service; its
	// Virtual address then holds the mark: 0.0.0.10 is mark 10.
	Protocol Protocol       `json:"protocol"`
	Client   netip.AddrPort `json:"client"`
	Virtual  netip.AddrPort `json:"virtual"`
	Dest     netip.AddrPort `json:"dest"`
	// State is the kernel's name of it: ESTABLISHED, NONE, ASSURED, UDP, …
	State    string        `json:"state"`
	Expires  time.Duration `json:"expires"`
	Template bool          `json:"template,omitempty"`
	// Engine and EngineData are set on templates of a persistence engine.
	Engine     string `json:"engine,omitempty"`
	EngineData string `json:"engine_data,omitempty"`
}

// Timeouts are those that ipvsadm --set sets. In SetTimeouts, 0 keeps.
type Timeouts struct {
	TCP    time.Duration `json:"tcp"`
	TCPFin time.Duration `json:"tcp_fin"`
	UDP    time.Duration `json:"udp"`
}

// counter is what the packet path counts, under the forwarding lock.
type counter struct{ conns, pkts, bytes uint64 }

// estimator makes Stats and Rate of a counter, as the kernel does: what is
// shown is the count at the last round, not the present one
// (ip_vs_est.c, estimation_timer; ip_vs_ctl.c, ip_vs_copy_stats).
type estimator struct {
	counter               // live
	seen          counter // at the last round
	zero          counter // at the last Zero, subtracted from what is shown
	last          counter // at the round before, or at Zero
	cps, pps, bps int64   // scaled: cps and pps by 2^10, bps by 2^5
}

// round is the estimator's work every two seconds.
func (e *estimator) round() {
	e.seen = e.counter
	decay := func(rate *int64, count, last uint64, shift uint) {
		*rate += (int64((count-last)<<shift) - *rate) >> 2
	}
	// Scaled, but a round is two seconds.
	decay(&e.cps, e.seen.conns, e.last.conns, 9)
	decay(&e.pps, e.seen.pkts, e.last.pkts, 9)
	decay(&e.bps, e.seen.bytes, e.last.bytes, 4)
	e.last = e.seen
}

// reset makes the present count the new zero (ip_vs_zero_stats).
func (e *estimator) reset() {
	e.zero, e.last = e.seen, e.seen
	e.cps, e.pps, e.bps = 0, 0, 0
}

func (e *estimator) stats() Stats {
	return Stats{
		Conns:   e.seen.conns - e.zero.conns,
		InPkts:  e.seen.pkts - e.zero.pkts,
		InBytes: e.seen.bytes - e.zero.bytes,
	}
}

// rate rounds up all but the smallest fraction (ip_vs_read_estimator).
func (e *estimator) rate() Rate {
	return Rate{
		CPS:   uint64(e.cps+0x1ff) >> 10,
		InPPS: uint64(e.pps+0x1ff) >> 10,
		InBPS: uint64(e.bps+0xf) >> 5,
	}
}

// estimate is one round for every service and destination that there is.
func (t *table) estimate() {
	for _, s := range t.services() {
		s.round()
		for _, d := range s.dests {
			d.round()
		}
	}
}
