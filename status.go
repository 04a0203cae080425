package ulvs

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"
)

// Stats are counters since the start or the last Zero. Out is always 0 in
// direct routing: the real servers answer the clients without the director.
type Stats struct {
	Conns    uint64 `json:"conns"`     // connections, and packets of one-packet services
	InPkts   uint64 `json:"in_pkts"`   // packets from clients
	OutPkts  uint64 `json:"out_pkts"`  // 0
	InBytes  uint64 `json:"in_bytes"`  // bytes from clients, IP headers included
	OutBytes uint64 `json:"out_bytes"` // 0
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

// Total is what all services have counted together, those too that are gone since.
type Total struct {
	Stats Stats `json:"stats"` // since the start or the last ZeroAll
	Rate  Rate  `json:"rate"`
}

// Opened says who has opened a service's connections, since it was added or the daemon was started:
// the plane, where that opens some by itself, or Go, the director. Packets of one-packet services
// are a connection each. On other planes it is zero.
type Opened struct {
	ByPlane uint64 `json:"by_plane"`
	InGo    uint64 `json:"in_go"`
}

// ServiceStatus is a service as it stands.
type ServiceStatus struct {
	Service
	// Stats are the service's counters, and Rate what the estimator makes of them.
	Stats Stats `json:"stats"`
	Rate  Rate  `json:"rate"`
	// Opened is who has opened the service's connections.
	Opened Opened `json:"opened,omitzero"`
	// Destinations are in the kernel's order, newest first.
	Destinations []DestinationStatus `json:"destinations"`
}

// String is everything: the configuration, the counters, the real servers, each in a line.
func (s ServiceStatus) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v, stats %+v, rate %+v", s.Service, s.Stats, s.Rate)
	if s.Opened != (Opened{}) {
		fmt.Fprintf(&b, ", opened %+v", s.Opened)
	}
	for _, d := range s.Destinations {
		fmt.Fprintf(&b, "\n  %v", d)
	}
	return b.String()
}

// LogValue is what slog logs: everything, by name.
func (s ServiceStatus) LogValue() slog.Value {
	return slog.GroupValue(slog.Any("service", s.Service), slog.Any("stats", s.Stats), slog.Any("rate", s.Rate),
		slog.Any("opened", s.Opened), slog.Any("destinations", s.Destinations))
}

// DestinationStatus is a real server as it stands.
type DestinationStatus struct {
	Destination
	// ActiveConns, InactConns and PersistConns are the columns of ipvsadm -L and
	// --persistent-conn: connections that are established, others, and templates.
	ActiveConns  uint32 `json:"active_conns"`
	InactConns   uint32 `json:"inact_conns"`
	PersistConns uint32 `json:"persist_conns"`
	// Stats are the real server's counters, and Rate what the estimator makes of them.
	Stats Stats `json:"stats"`
	Rate  Rate  `json:"rate"`
}

// ConnStatus is one line of ipvsadm -Lc: a connection or a template.
type ConnStatus struct {
	// Protocol is 0 (IP) for the template of a firewall-mark service; its
	// Virtual address then holds the mark: 0.0.0.10 is mark 10.
	Protocol Protocol `json:"protocol"`
	// Client is the client's address and port; a template's is its network, and port 0.
	Client netip.AddrPort `json:"client"`
	// Virtual is the virtual address and port, and Dest the real server's. Both ports of
	// a template are 65535 whose real server was gone when it was tried.
	Virtual netip.AddrPort `json:"virtual"`
	Dest    netip.AddrPort `json:"dest"`
	// State is the kernel's name of it: ESTABLISHED, NONE, ASSURED, UDP, …
	State string `json:"state"`
	// Expires is how long the entry lives if no packet comes.
	Expires time.Duration `json:"expires"`
	// Template says that it is a connection template.
	Template bool `json:"template,omitempty"`
	// Engine and EngineData are set on templates of a persistence engine.
	Engine     string `json:"engine,omitempty"`
	EngineData string `json:"engine_data,omitempty"`
}

// Timeouts are those that ipvsadm --set sets. In SetTimeouts, 0 keeps.
type Timeouts struct {
	TCP    time.Duration `json:"tcp"`     // of an established TCP connection
	TCPFin time.Duration `json:"tcp_fin"` // of one in FIN_WAIT
	UDP    time.Duration `json:"udp"`     // of UDP
}
