package ipvsadm

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/ulvs/ulvs"
)

// format is a set of the options that shape a listing.
type format uint16

const (
	formatNumeric format = 1 << iota
	formatRule           // -S
	formatStats
	formatRate
	formatThresholds
	formatPersistentConn
	formatNoSort
	formatExact
	formatTunInfo
)

var formatOf = map[optionID]format{
	'n': formatNumeric, 'X': formatExact, optStats: formatStats, optRate: formatRate,
	optThresholds: formatThresholds, optPersistentConn: formatPersistentConn,
	optNoSort: formatNoSort, optTunInfo: formatTunInfo,
}

func (f format) has(o format) bool { return f&o != 0 }

// checkList looks for options that only exclude each other in certain pairs.
func (l *line) checkList() *exit {
	other := l.given.has(topicConnection, topicTimeout, topicDaemon)
	if other && l.given.has(topicStats, topicRate, topicThresholds) ||
		l.given.has(topicTimeout, topicDaemon) && l.given.has(topicPersistentConn) {
		return fail("options conflicts in the list command")
	}
	return nil
}

func (r *runner) list(l *line) *exit {
	switch {
	case l.given.has(topicConnection):
		return r.listConns(l.format)
	case l.given.has(topicService):
		s, err := r.control.Service(l.service.ServiceKey)
		if err != nil {
			return listRefused(err)
		}
		r.title(l.format)
		r.service(&s, l.format)
	case l.given.has(topicTimeout):
		t, err := r.control.Timeouts()
		if err != nil {
			return listRefused(err)
		}
		fmt.Fprintf(r.out, "Timeout (tcp tcpfin udp): %d %d %d\n",
			int64(t.TCP.Seconds()), int64(t.TCPFin.Seconds()), int64(t.UDP.Seconds()))
	case l.given.has(topicDaemon):
		// No sync daemon runs.
	default:
		return r.listAll(l.format)
	}
	return nil
}

func listRefused(err error) *exit { return refused(verbList, err, &exit{code: exitList}) }

func (r *runner) listAll(f format) *exit {
	if !f.has(formatRule) {
		version, size, err := r.control.Version()
		if err != nil {
			return listRefused(err)
		}
		fmt.Fprintf(r.out, "IP Virtual Server version %s (size=%d)\n", version, size)
	}
	services, err := r.control.Services()
	if err != nil {
		return listRefused(err)
	}
	if !f.has(formatNoSort) {
		services = slices.Clone(services)
		mergeSort(services, compareServices)
	}
	r.title(f)
	for i := range services {
		r.service(&services[i], f)
	}
	return nil
}

func (r *runner) title(f format) {
	var columns string
	switch {
	case f.has(formatStats):
		columns = "               Conns   InPkts  OutPkts  InBytes OutBytes"
	case f.has(formatRate):
		columns = "                 CPS    InPPS   OutPPS    InBPS   OutBPS"
	case f.has(formatThresholds):
		columns = "            Uthreshold Lthreshold ActiveConn InActConn "
	case f.has(formatPersistentConn):
		columns = "            Weight    PersistConn ActiveConn InActConn "
	case f.has(formatTunInfo):
		fmt.Fprint(r.out, "Prot LocalAddress:Port Scheduler Flags\n"+
			"  -> RemoteAddress:Port           Forward TunnelInfo    Weight ActiveConn InActConn\n")
		return
	case f.has(formatRule):
		return
	default:
		fmt.Fprint(r.out, "Prot LocalAddress:Port Scheduler Flags\n"+
			"  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n")
		return
	}
	fmt.Fprintf(r.out, "Prot LocalAddress:Port%s\n  -> RemoteAddress:Port\n", columns)
}

// service prints a service and its real servers.
func (r *runner) service(s *ulvs.ServiceStatus, f format) {
	if f.has(formatRule) {
		r.rules(s, f)
		return
	}
	name := r.serviceName(s, f)
	switch {
	case f.has(formatStats):
		fmt.Fprintf(r.out, "%s%s\n", pad(name, maxServiceName), counters(s.Stats, f))
	case f.has(formatRate):
		fmt.Fprintf(r.out, "%s%s\n", pad(name, maxServiceName), rates(s.Rate, f))
	default:
		fmt.Fprintf(r.out, "%s %s", name, s.Scheduler)
		if s.SchedFlags != 0 {
			fmt.Fprintf(r.out, " (%s)", flagNames(s.Scheduler, s.SchedFlags))
		}
		if p := s.Persistence; p.Timeout != 0 {
			fmt.Fprintf(r.out, " persistent %d", int64(p.Timeout.Seconds()))
			if m := maskName(p); m != "" {
				fmt.Fprintf(r.out, " mask %s", m)
			}
			if p.Engine != "" {
				fmt.Fprintf(r.out, " pe %s", p.Engine)
			}
		}
		if s.OnePacket {
			r.out.WriteString(" ops")
		}
		r.out.WriteString("\n")
	}
	for _, d := range sorted(s.Destinations, f) {
		r.destination(&d, s, f)
	}
}

func sorted(ds []ulvs.DestinationStatus, f format) []ulvs.DestinationStatus {
	if f.has(formatNoSort) {
		return ds
	}
	ds = slices.Clone(ds)
	mergeSort(ds, compareDestinations)
	return ds
}

// serviceName is a service as a listing names it.
func (r *runner) serviceName(s *ulvs.ServiceStatus, f format) string {
	switch {
	case s.Mark != 0 && s.IPv6:
		return fmt.Sprintf("FWM  %d IPv6", int32(s.Mark)) // signed, as in the original
	case s.Mark != 0:
		return fmt.Sprintf("FWM  %d", int32(s.Mark))
	}
	proto := s.Protocol.String()
	if s.Protocol != ulvs.TCP && s.Protocol != ulvs.UDP && s.Protocol != ulvs.SCTP {
		proto = "?"
	}
	name := pad(proto, 4) + " " + r.name(addrPort(s), s.Protocol, f.has(formatNumeric))
	if !s.Addr.Is6() {
		name = cut(name, maxServiceName)
	}
	return name
}

func (r *runner) destination(d *ulvs.DestinationStatus, s *ulvs.ServiceStatus, f format) {
	name := r.name(d.AddrPort(), s.Protocol, f.has(formatNumeric))
	if !d.Addr.Is6() {
		name = cut(name, maxDestName)
	}
	fmt.Fprintf(r.out, "  -> %s", pad(name, maxDestName))
	switch {
	case f.has(formatStats):
		fmt.Fprintf(r.out, "%s\n", counters(d.Stats, f))
	case f.has(formatRate):
		// The first three are never shortened.
		fmt.Fprintf(r.out, " %8d %8d %8d%s%s\n", d.Rate.CPS, d.Rate.InPPS, d.Rate.OutPPS,
			large(d.Rate.InBPS, f), large(d.Rate.OutBPS, f))
	case f.has(formatThresholds):
		fmt.Fprintf(r.out, " %-10d %-10d %-10d %-10d\n",
			d.UpperThreshold, d.LowerThreshold, d.ActiveConns, d.InactConns)
	case f.has(formatPersistentConn):
		fmt.Fprintf(r.out, " %-9d %-11d %-10d %-10d\n",
			uint32(d.Weight), d.PersistConns, d.ActiveConns, d.InactConns)
	case f.has(formatTunInfo):
		fmt.Fprintf(r.out, " %-7s %-13s %-6d %-10d %-10d\n",
			d.Forward, tunnelInfo(d), d.Weight, d.ActiveConns, d.InactConns)
	default:
		fmt.Fprintf(r.out, " %-7s %-6d %-10d %-10d\n",
			d.Forward, d.Weight, d.ActiveConns, d.InactConns)
	}
}

func counters(s ulvs.Stats, f format) string {
	return large(s.Conns, f) + large(s.InPkts, f) + large(s.OutPkts, f) +
		large(s.InBytes, f) + large(s.OutBytes, f)
}

func rates(r ulvs.Rate, f format) string {
	return large(r.CPS, f) + large(r.InPPS, f) + large(r.OutPPS, f) +
		large(r.InBPS, f) + large(r.OutBPS, f)
}

// large is a number in nine columns: shortened from 100 million on, unless
// exact, and then in as many as it needs and one.
func large(n uint64, f format) string {
	if f.has(formatExact) {
		s := decimal(n)
		return fmt.Sprintf("%*s", max(9, len(s)+1), s)
	}
	switch {
	case n < 100e6:
		return fmt.Sprintf("%9d", n)
	case n < 1e9:
		return fmt.Sprintf("%8dK", n/1e3)
	case n < 100e9:
		return fmt.Sprintf("%8dM", n/1e6)
	case n < 100e12:
		return fmt.Sprintf("%8dG", n/1e9)
	}
	return fmt.Sprintf("%8dT", n/1e12)
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

// pad fills up to n bytes, where fmt would count characters.
func pad(s string, n int) string {
	for len(s) < n {
		s += " "
	}
	return s
}
