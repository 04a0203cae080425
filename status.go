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
