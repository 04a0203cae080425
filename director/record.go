package director

import (
	"net/netip"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/sched"
)

// What the journal's records hold. The types are their own, so that the operator's words
// may change without misreading what an earlier process wrote; accel.Layout goes with
// them.

// command is a verb of the operator's in the journal.
type command struct {
	Verb string `json:"do"`
	// Number is that of the service's state, or of the real server.
	Number      uint32             `json:"number,omitempty"`
	Service     *serviceRecord     `json:"service,omitempty"`
	Key         *keyRecord         `json:"key,omitempty"`
	Destination *destinationRecord `json:"destination,omitempty"`
	Addr        netip.AddrPort     `json:"addr,omitzero"`
	Timeouts    *timeoutsRecord    `json:"timeouts,omitempty"`
	Name        string             `json:"name,omitempty"` // of a sysctl
	Value       int                `json:"value,omitempty"`
	Generation  uint32             `json:"generation,omitempty"`
	IPv6        bool               `json:"ipv6,omitempty"`
	Text        string             `json:"text,omitempty"`
}

type keyRecord struct {
	Protocol uint8      `json:"protocol,omitempty"`
	Addr     netip.Addr `json:"addr,omitzero"`
	Port     uint16     `json:"port,omitempty"`
	Mark     uint32     `json:"mark,omitempty"`
	IPv6     bool       `json:"ipv6,omitempty"`
}

type serviceRecord struct {
	keyRecord
	Scheduler  string        `json:"scheduler,omitempty"`
	SchedFlags uint8         `json:"sched_flags,omitempty"`
	Timeout    time.Duration `json:"persistent_timeout,omitempty"`
	Netmask    netip.Addr    `json:"netmask,omitzero"`
	Engine     string        `json:"engine,omitempty"`
	OnePacket  bool          `json:"one_packet,omitempty"`
}

type destinationRecord struct {
	Addr           netip.Addr `json:"addr"`
	Port           uint16     `json:"port,omitempty"`
	Forward        uint8      `json:"forward,omitempty"`
	Weight         int32      `json:"weight,omitempty"`
	UpperThreshold uint32     `json:"upper_threshold,omitempty"`
	LowerThreshold uint32     `json:"lower_threshold,omitempty"`
	TunnelType     uint8      `json:"tunnel_type,omitempty"`
	TunnelPort     uint16     `json:"tunnel_port,omitempty"`
	TunnelFlags    uint16     `json:"tunnel_flags,omitempty"`
}

type timeoutsRecord struct {
	TCP    time.Duration `json:"tcp,omitempty"`
	TCPFin time.Duration `json:"tcp_fin,omitempty"`
	UDP    time.Duration `json:"udp,omitempty"`
}

func recordKey(k ulvs.ServiceKey) *keyRecord {
	return &keyRecord{Protocol: uint8(k.Protocol), Addr: k.Addr, Port: k.Port, Mark: k.Mark, IPv6: k.IPv6}
}

func (r *keyRecord) key() ulvs.ServiceKey {
	return ulvs.ServiceKey{Protocol: ulvs.Protocol(r.Protocol), Addr: r.Addr, Port: r.Port, Mark: r.Mark, IPv6: r.IPv6}
}

func recordService(s ulvs.Service) *serviceRecord {
	p := s.Persistence
	return &serviceRecord{
		keyRecord: *recordKey(s.ServiceKey), Scheduler: s.Scheduler, SchedFlags: uint8(s.SchedFlags),
		Timeout: p.Timeout, Netmask: p.Netmask, Engine: p.Engine, OnePacket: s.OnePacket,
	}
}

func (r *serviceRecord) service() ulvs.Service {
	return ulvs.Service{
		ServiceKey: r.key(), Scheduler: r.Scheduler, SchedFlags: sched.Flags(r.SchedFlags),
		Persistence: ulvs.Persistence{Timeout: r.Timeout, Netmask: r.Netmask, Engine: r.Engine}, OnePacket: r.OnePacket,
	}
}

func recordDestination(d ulvs.Destination) *destinationRecord {
	return &destinationRecord{
		Addr: d.Addr, Port: d.Port, Forward: uint8(d.Forward), Weight: d.Weight,
		UpperThreshold: d.UpperThreshold, LowerThreshold: d.LowerThreshold,
		TunnelType: uint8(d.TunnelType), TunnelPort: d.TunnelPort, TunnelFlags: uint16(d.TunnelFlags),
	}
}

func (r *destinationRecord) destination() ulvs.Destination {
	return ulvs.Destination{
		Addr: r.Addr, Port: r.Port, Forward: ulvs.ForwardMethod(r.Forward), Weight: r.Weight,
		UpperThreshold: r.UpperThreshold, LowerThreshold: r.LowerThreshold,
		TunnelType: ulvs.TunnelType(r.TunnelType), TunnelPort: r.TunnelPort,
		TunnelFlags: ulvs.TunnelFlags(r.TunnelFlags),
	}
}

func recordTimeouts(t ulvs.Timeouts) *timeoutsRecord { return &timeoutsRecord{t.TCP, t.TCPFin, t.UDP} }

func (r *timeoutsRecord) timeouts() ulvs.Timeouts {
	return ulvs.Timeouts{TCP: r.TCP, TCPFin: r.TCPFin, UDP: r.UDP}
}
