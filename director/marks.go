package director

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/dataplane"
	"github.com/ulvs/ulvs/fwmark"
	"github.com/ulvs/ulvs/packet"
	"github.com/ulvs/ulvs/service"
)

// marks is the table of a family's mark rules. The caller holds ctl.
func (d *Director) marks(ipv6 bool) *fwmark.Table {
	if ipv6 {
		return d.marks6
	}
	return d.marks4
}

// MarkCommand implements Control.
func (d *Director) MarkCommand(ipv6 bool, args []string) (out string, err error) {
	return out, d.changeMarks(ipv6, func(t *fwmark.Table) error {
		out, err = t.Command(args)
		return err
	})
}

// MarkRestore implements Control.
func (d *Director) MarkRestore(ipv6 bool, text string) error {
	return d.changeMarks(ipv6, func(t *fwmark.Table) error { return t.Restore(text) })
}

// SetMarks puts rules in the place of a family's mark rules, as a whole. The
// error names the rule that fwmark.Table.Append refuses.
func (d *Director) SetMarks(ipv6 bool, rules []fwmark.Rule) error {
	return d.changeMarks(ipv6, func(t *fwmark.Table) error {
		t.Flush()
		for _, r := range rules {
			if err := t.Append(r); err != nil {
				return err
			}
		}
		return nil
	})
}

// changeMarks lets f change a copy of the rules and puts it to work as a whole.
func (d *Director) changeMarks(ipv6 bool, f func(*fwmark.Table) error) error {
	d.ctl.Lock()
	defer d.ctl.Unlock()
	was := d.marks(ipv6)
	now := was.Clone()
	if err := f(now); err != nil {
		var e *fwmark.Error
		if errors.As(err, &e) && e.Usage {
			return wordsError{err}
		}
		return err
	}
	if slices.EqualFunc(was.Rules(), now.Rules(), func(a, b fwmark.Rule) bool { return a.Equal(&b) }) {
		return nil
	}
	err := d.claim(func(to *dataplane.Claims) {
		*[]*[]dataplane.MarkRule{&to.Rules4, &to.Rules6}[family(ipv6)] = markRules(now.Rules())
	})
	if err != nil {
		return err
	}
	set := fwmark.Compile(now.Rules())
	d.change(func() {
		*[]**fwmark.Table{&d.marks4, &d.marks6}[family(ipv6)] = now
		d.table.sets[family(ipv6)] = set
	}, true)
	return d.record(command{Verb: "marks", IPv6: ipv6, Text: now.Save()})
}

// wordsError is a mistake in the words of a mark command, not one that depends
// on the rules there are; iptables exits with 2 and with 1.
type wordsError struct{ error }

func (e wordsError) Is(target error) bool { return target == ulvs.ErrInvalid }
func (e wordsError) Unwrap() error        { return e.error }

// MarkSave implements Control.
func (d *Director) MarkSave(ipv6 bool) (string, error) {
	d.ctl.Lock()
	defer d.ctl.Unlock()
	return d.marks(ipv6).Save(), nil
}

// nameMarks works out which addresses mark rules name as those of services. The
// caller holds both locks.
func (t *table) nameMarks(sets ...*fwmark.Table) {
	clear(t.markVIPs)
	for i, marks := range sets {
		if set := t.sets[i]; set != nil && len(marks.Rules()) > 0 {
			for _, a := range set.Destinations(t.Marks(i == 1)) {
				t.markVIPs[a] = true
			}
		}
	}
}

// nameMark is nameMarks for one more service.
func (t *table) nameMark(k ulvs.ServiceKey) {
	if k.Mark == 0 {
		return
	}
	for _, a := range t.sets[family(k.IPv6)].Destinations([]uint32{k.Mark}) {
		t.markVIPs[a] = true
	}
}

// markRules says rules in the planes' terms.
func markRules(rules []fwmark.Rule) []dataplane.MarkRule {
	out := make([]dataplane.MarkRule, len(rules))
	for i, r := range rules {
		m := dataplane.MarkRule{
			Proto: r.Protocol, NotProto: r.NotProtocol, In: r.In.Name, NotIn: r.In.Not,
			Src: dataplane.AddrMatch(r.Source), Dst: dataplane.AddrMatch(r.Dest),
			Value: r.Value, Mask: r.Mask,
		}
		for _, c := range r.Matches {
			switch c.Kind {
			case fwmark.MatchPorts:
				m.Ports = append(m.Ports, portMatch(dataplane.SourcePort, c.Source), portMatch(dataplane.DestPort, c.Dest))
			case fwmark.MatchMultiport:
				side := map[fwmark.Side]dataplane.PortSide{
					fwmark.SourceSide: dataplane.SourcePort, fwmark.DestSide: dataplane.DestPort, fwmark.EitherSide: dataplane.EitherPort,
				}[c.Side]
				pm := dataplane.PortMatch{Side: side, Not: c.Not}
				for _, p := range c.Ports {
					pm.Ranges = append(pm.Ranges, dataplane.PortRange{First: p.First, Last: p.Last})
				}
				m.Ports = append(m.Ports, pm)
			case fwmark.MatchMark:
				m.Marks = append(m.Marks, dataplane.MarkMatch{Value: c.Value, Mask: c.Mask, Not: c.Not})
			}
		}
		out[i] = m
	}
	return out
}

// portMatch is a condition of -m tcp and its like; one that was not given still
// wants a packet that has ports.
func portMatch(side dataplane.PortSide, p fwmark.PortRange) dataplane.PortMatch {
	if !p.Given {
		p = fwmark.PortRange{Last: 65535}
	}
	return dataplane.PortMatch{Side: side, Ranges: []dataplane.PortRange{{First: p.First, Last: p.Last}}, Not: p.Not}
}

// claim tells the plane what the director answers for, as it will be when more
// has been applied. Where there are very many services, of which a restore adds
// one after the other, commands do not wait for it each time: the next Tick
// does it for all of them. The caller holds ctl.
func (d *Director) claim(more func(*dataplane.Claims)) error {
	if d.table.replaying {
		return nil
	}
	const many = 200
	d.fwd.Lock()
	later := more != nil && d.table.Len() >= many && time.Since(d.claimed) < 4*d.claimCost
	d.claimDue = d.claimDue || later
	d.fwd.Unlock()
	if later {
		return nil
	}
	began := time.Now()
	d.fwd.Lock()
	c := d.table.claims()
	d.claimDue = false
	d.fwd.Unlock()
	c.Rules4, c.Rules6 = markRules(d.marks4.Rules()), markRules(d.marks6.Rules())
	if more != nil {
		more(&c)
	}
	err := d.plane.Claim(c)
	d.claimed = time.Now()
	d.claimCost = d.claimed.Sub(began)
	if err != nil {
		return fmt.Errorf("the %s plane cannot keep the host from the services' packets: %w", d.plane.Name(), err)
	}
	return nil
}

// claims are what the plane has to keep from the host. A service that is gone
// claims nothing, though it may have connections left: its ports may be the
// host's now.
func (t *table) claims() (c dataplane.Claims) {
	for s := range t.Each {
		c.Services = append(c.Services, s.claim()...)
	}
	c.Marks4, c.Marks6 = t.Marks(false), t.Marks(true)
	return c
}

// claim is what one service with an address claims. A persistent FTP service
// has the ports of its data connections too; without persistence, what comes
// there is the host's (ip_vs_leave).
func (s *virtual) claim() []dataplane.Claim {
	if s.Mark != 0 {
		return nil
	}
	c := dataplane.Claim{Addr: s.Addr, Proto: uint8(s.Protocol), Port: s.Port, Service: s.number}
	if !s.ftp() {
		return []dataplane.Claim{c}
	}
	data, passive := c, c
	data.Port = ftpDataPort
	passive.Port, passive.Last = service.Unprivileged, 65535
	return []dataplane.Claim{c, data, passive}
}

// claimed reports whether a packet to an address is among the claims. s is its
// service, or nil.
func (t *table) claimed(s *virtual, to netip.Addr, p *packet.Packet) bool {
	if s != nil && s.Mark != 0 {
		return true
	}
	k := service.KeyOf(to, p.Proto, p.Flow.VirtualPort())
	if t.Find(k) != nil {
		return true
	}
	port := k.Port
	if k.Port = 0; t.Find(k) != nil {
		return true
	}
	k.Port = ftpPort
	ftp := t.Find(k)
	return ftp != nil && ftp.ftp() && (port == ftpDataPort || port >= service.Unprivileged)
}

// ftp reports a service that has FTP's data connections too.
func (s *virtual) ftp() bool {
	return s.Port == ftpPort && s.Protocol == ulvs.TCP && s.Persistence.Timeout != 0
}
