package director

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/conn"
	"github.com/ulvs/ulvs/internal/accel"
	"github.com/ulvs/ulvs/internal/journal"
	"github.com/ulvs/ulvs/internal/preselect"
	"github.com/ulvs/ulvs/internal/shtab"
	"github.com/ulvs/ulvs/persist"
)

// What outlives the process, where the plane has memory that does: both tables
// with their records, the cells, and a journal of commands.
const (
	partConns = iota
	partConnRecords
	partTemplates
	partTemplateRecords
	partCells
	partJournal
	partServices
)

// journalSize has room for some ten thousand services and real servers in each
// half.
var journalSize = 16 << 20

// cellCount is how many real servers, and how many services, have cells that
// outlive the process. What others count begins at 0 with the next one.
const stateCount = 1 << 14

func parts(o *Options) []accel.Part {
	return []accel.Part{
		partConns:           {Name: accel.PartConns, Size: conn.MemorySize(o.Connections)},
		partConnRecords:     {Name: "conn-records", Size: conn.RecordsSize(o.Connections)},
		partTemplates:       {Name: accel.PartTemplates, Size: persist.MemorySize(o.Templates)},
		partTemplateRecords: {Name: "template-records", Size: persist.RecordsSize(o.Templates)},
		partCells:           {Name: "cells", Size: shtab.RecordsSize[state](2 * stateCount)},
		partJournal:         {Name: "journal", Size: journalSize},
		partServices:        {Name: accel.PartServices, Size: preselect.Size()},
	}
}

// shareMemory has the tables lie in the memory of a plane that forwards by itself.
// kept is the journal of an earlier process that left its own there, or nil.
func (d *Director) shareMemory(o *Options, conns *conn.Options, templates *persist.Options) (kept [][]byte, err error) {
	list := parts(o)
	adopt, err := d.table.fast.Memory(list)
	if err != nil {
		return nil, err
	}
	conns.Quarantine, templates.Quarantine = true, true
	conns.Memory, conns.Records, conns.Adopt = list[partConns].Block, list[partConnRecords].Block, adopt
	templates.Memory, templates.Records, templates.Adopt = list[partTemplates].Block, list[partTemplateRecords].Block, adopt
	if d.table.states.kept, err = shtab.RecordsOver[state](list[partCells].Block, 2*stateCount); err != nil {
		return nil, err
	}
	d.nextEst, d.table.trashAt = d.table.states.clocks()
	if err := d.adoptPicks(list[partServices].Block); err != nil {
		return nil, err
	}
	if !adopt {
		d.journal, err = journal.New(list[partJournal].Block)
		return nil, err
	}
	if d.journal, kept, err = journal.Open(list[partJournal].Block); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKept, err)
	}
	if kept == nil {
		kept = [][]byte{}
	}
	return kept, nil
}

// Adopted reports whether the director goes on with what an earlier process left.
func (d *Director) Adopted() bool { return d.adopted }

// change is a command in the journal.
type command struct {
	Verb string `json:"do"`
	// Number is that of the service's cell, or of the real server.
	Number      uint32            `json:"number,omitempty"`
	Service     *ulvs.Service     `json:"service,omitempty"`
	Key         *ulvs.ServiceKey  `json:"key,omitempty"`
	Destination *ulvs.Destination `json:"destination,omitempty"`
	Addr        netip.AddrPort    `json:"addr,omitzero"`
	Timeouts    *ulvs.Timeouts    `json:"timeouts,omitempty"`
	Name        string            `json:"name,omitempty"` // of a sysctl
	Value       int               `json:"value,omitempty"`
	Generation  uint32            `json:"generation,omitempty"`
	IPv6        bool              `json:"ipv6,omitempty"`
	Text        string            `json:"text,omitempty"`
}

// keep writes down a command that was carried out, before it is answered. The
// caller holds ctl.
func (d *Director) record(c command) error {
	if d.journal == nil || d.table.replaying {
		return nil
	}
	record, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("keeping a command: %w", err)
	}
	if err = journal.ErrFull; !d.journalStale {
		err = d.journal.Append(record)
	}
	if errors.Is(err, journal.ErrFull) {
		var all [][]byte
		if all, err = d.snapshot(); err == nil {
			err = d.journal.Rewrite(all)
		}
	}
	// What is missing in the journal must not be built upon.
	d.journalStale = err != nil
	if err != nil {
		return fmt.Errorf("the command was carried out, but will be forgotten when the daemon is started anew: %w", err)
	}
	return nil
}

// snapshot is the changes that make everything as it is. The caller holds ctl, under
// which all of it changes but the trash and the modes of defence.
func (d *Director) snapshot() (records [][]byte, err error) {
	put := func(c command) {
		record, failed := json.Marshal(c)
		err = errors.Join(err, failed)
		records = append(records, record)
	}
	d.fwd.Lock()
	sysctls := map[string]int{}
	for _, name := range d.sysctl.Names() {
		sysctls[name], _ = d.sysctl.Get(name)
	}
	timeouts, generation := d.timeouts(), d.conns.Generation()
	trash := map[*virtual][]*dest{}
	for _, dst := range d.table.trash {
		trash[dst.svc] = append(trash[dst.svc], dst)
	}
	all := slices.Collect(d.table.All())
	d.fwd.Unlock()

	if d.loading {
		put(command{Verb: "load"})
	}
	for name, value := range sysctls {
		put(command{Verb: "sysctl", Name: name, Value: value})
	}
	put(command{Verb: "timeouts", Timeouts: &timeouts, Generation: generation})
	for _, six := range []bool{false, true} {
		put(command{Verb: "marks", IPv6: six, Text: d.marks(six).Save()})
	}
	server := func(s *virtual, dst *dest) {
		conf := dst.conf
		conf.Weight = max(conf.Weight, dst.LastWeight())
		put(command{Verb: "server", Key: &s.ServiceKey, Destination: &conf, Number: dst.ID})
		if conf.Weight != dst.conf.Weight {
			put(command{Verb: "edit server", Key: &s.ServiceKey, Destination: &dst.conf})
		}
	}
	// The trash of services that are gone comes first: their numbers may be others'.
	live := map[*virtual]bool{}
	for _, s := range all {
		live[s] = true
	}
	for s, list := range trash {
		if live[s] {
			continue
		}
		put(command{Verb: "service", Service: &s.Service, Number: s.number})
		for _, dst := range list {
			server(s, dst)
		}
		put(command{Verb: "delete service", Key: &s.ServiceKey})
	}
	for _, s := range slices.Backward(all) {
		put(command{Verb: "service", Service: &s.Service, Number: s.number})
		for _, dst := range trash[s] {
			server(s, dst)
			put(command{Verb: "delete server", Key: &s.ServiceKey, Addr: dst.conf.AddrPort()})
		}
		for _, dst := range slices.Backward(s.dests) {
			server(s, dst)
		}
	}
	return records, err
}

// Load carries out load, which sets the director up. What a process leaves that ends
// before load has returned nil is not adopted by another.
func (d *Director) Load(load func() error) error {
	mark := func(do string, loading bool) error {
		d.ctl.Lock()
		defer d.ctl.Unlock()
		d.loading = loading
		return d.record(command{Verb: do})
	}
	if err := mark("load", true); err != nil {
		return err
	}
	if err := load(); err != nil {
		return err
	}
	return mark("loaded", false)
}

// replay makes the changes of an earlier process again.
func (d *Director) replay(records [][]byte) error {
	for _, r := range records {
		var c command
		if err := json.Unmarshal(r, &c); err != nil {
			return fmt.Errorf("%q: %w", r, err)
		}
		if err := d.apply(&c); err != nil {
			return fmt.Errorf("%s: %w", r, err)
		}
	}
	if d.loading {
		return errors.New("it had not been set up to the end")
	}
	return nil
}

func (d *Director) apply(c *command) error {
	switch c.Verb {
	case "load", "loaded":
		d.loading = c.Verb == "load"
		return nil
	case "service":
		return d.addService(*c.Service, c.Number)
	case "edit service":
		return d.EditService(*c.Service)
	case "delete service":
		return d.DeleteService(*c.Key)
	case "clear":
		return d.Clear()
	case "server":
		return d.addDestination(*c.Key, *c.Destination, c.Number)
	case "edit server":
		return d.EditDestination(*c.Key, *c.Destination)
	case "delete server":
		return d.DeleteDestination(*c.Key, c.Addr)
	case "forget":
		d.purge(c.Number)
		return nil
	case "timeouts":
		if err := d.SetTimeouts(*c.Timeouts); err != nil {
			return err
		}
		d.conns.SetGeneration(c.Generation)
		return nil
	case "sysctl":
		return d.SetSysctl(c.Name, c.Value)
	case "marks":
		return d.MarkRestore(c.IPv6, c.Text)
	}
	return errors.New("this version does not know it")
}

// adopt brings back what an earlier process left in the parts.
func (d *Director) adopt(records [][]byte) error {
	d.table.replaying = true
	err := d.replay(records)
	d.table.replaying = false
	if err != nil {
		return fmt.Errorf("its journal: %w", err)
	}
	d.fwd.Lock()
	defer d.fwd.Unlock()
	d.bind()
	for _, dst := range d.table.dests {
		if dst != nil {
			dst.Recall(dst.overloaded)
			dst.Keep(&dst.overloaded)
		}
	}
	// What the plane knows of a server holds until it is known anew.
	const trusted = 10 * hz
	now := tickOf(d.clock())
	d.table.free = nil
	for id, dst := range d.table.dests[1:] {
		if dst == nil {
			d.table.free = append(d.table.free, uint32(id+1))
			d.table.fast.SetServer(uint32(id+1), accel.Server{})
		} else if dst.available {
			dst.graceUntil = max(now+trusted, 1)
		}
	}
	for s := range d.table.Each {
		s.restorePosition()
	}
	return nil
}

// bind counts the connections and templates of the tables for their real servers,
// and ends those that have none.
func (d *Director) bind() {
	known := func(id uint32) *dest {
		if int(id) < len(d.table.dests) {
			return d.table.dests[id]
		}
		return nil
	}
	for at, more := persist.ID(0), true; more; {
		at, more = d.templates.Each(at, 1<<30, func(id persist.ID) {
			dst := known(d.templates.Dest(id))
			if dst == nil {
				d.templates.Remove(id)
				return
			}
			dst.Bind(true, false)
		})
	}
	for at, more := conn.ID(0), true; more; {
		at, more = d.conns.Each(at, 1<<30, func(id conn.ID) {
			dst := known(d.conns.Dest(id))
			if dst == nil {
				d.conns.Remove(id)
				return
			}
			dst.Bind(false, d.conns.Active(id))
			if t := d.conns.Template(id); t != 0 {
				if int(t) > d.templates.Slots() || !d.templates.Live(persist.ID(t-1)) {
					d.conns.Orphan(id)
					return
				}
				d.templates.Adopt(persist.ID(t - 1))
			}
		})
	}
	d.acceptAll(known)
}

// forget takes a real server out of the trash, as the process before did.
func (d *Director) purge(number uint32) {
	for i, dst := range d.table.trash {
		if dst.ID == number {
			d.table.trash = slices.Delete(d.table.trash, i, i+1)
			d.table.dests[number] = nil
			d.resolver.Release(dst.hop)
			return
		}
	}
}

// keepForgotten writes down which real servers have left the trash. It does not wait
// for a command under way: the next Tick tries again.
func (d *Director) recordPurged(gone []*dest) {
	if d.journal == nil {
		return
	}
	for _, dst := range gone {
		d.purged = append(d.purged, dst.ID)
	}
	if len(d.purged) == 0 || !d.ctl.TryLock() {
		return
	}
	defer d.ctl.Unlock()
	for _, id := range d.purged {
		d.fwd.Lock()
		again := d.table.dests[id] != nil
		d.fwd.Unlock()
		if again {
			continue // the number is another's by now, which says the same
		}
		if err := d.record(command{Verb: "forget", Number: id}); err != nil {
			d.log.Error("keeping state", "err", err)
		}
	}
	d.purged = nil
}

// number gives an adopted real server the number that it had. It returns the one
// that had it before, and had left the trash since.
func (t *table) number(d *dest, id uint32) (was *dest) {
	for int(id) >= len(t.dests) {
		t.dests = append(t.dests, nil)
	}
	if was = t.dests[id]; was != nil {
		t.trash = slices.DeleteFunc(t.trash, func(x *dest) bool { return x == was })
	}
	d.ID = id
	t.dests[id] = d
	d.state = t.states.server(id)
	return was
}
