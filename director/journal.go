package director

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/ulvs/ulvs/forward"

	"github.com/ulvs/ulvs/internal/journal"
)

// journalSize is the size of a new journal, which has room for some forty thousand
// services and real servers in each half; it grows by need.
var journalSize = 16 << 20

// Adopted reports whether the director goes on with what an earlier process left.
func (d *Director) Adopted() bool { return d.adopted }

// snapshot returns the commands that make everything as it is. The caller holds ctl, under
// which all of it changes but the trash and the modes of defence.
func (e live) snapshot() (records [][]byte, err error) {
	put := func(c command) {
		record, failed := json.Marshal(c)
		err = errors.Join(err, failed)
		records = append(records, record)
	}
	now := e.path.State.Snapshot()
	if e.loading {
		put(command{Verb: "load"})
	}
	for name, value := range now.Sysctls {
		put(command{Verb: "sysctl", Name: name, Value: value})
	}
	put(command{Verb: "timeouts", Timeouts: recordTimeouts(now.Timeouts), Generation: now.Generation})
	for _, six := range []bool{false, true} {
		put(command{Verb: "marks", IPv6: six, Text: e.marks(six).Save()})
	}
	server := func(s *forward.Service, dst *forward.Dest) {
		present := dst.Conf()
		conf := present
		conf.Weight = max(conf.Weight, dst.LastWeight())
		put(command{Verb: "server", Key: recordKey(s.ServiceKey), Destination: recordDestination(conf), Number: dst.ID})
		if conf.Weight != present.Weight {
			put(command{Verb: "edit server", Key: recordKey(s.ServiceKey), Destination: recordDestination(present)})
		}
	}
	// The trash of services that are gone comes first: their numbers may be others'.
	live := map[*forward.Service]bool{}
	for _, s := range now.Services {
		live[s] = true
	}
	for s, list := range now.Trash {
		if live[s] {
			continue
		}
		put(command{Verb: "service", Service: recordService(s.Service), Number: s.Number()})
		for _, dst := range list {
			server(s, dst)
		}
		put(command{Verb: "delete service", Key: recordKey(s.ServiceKey)})
	}
	for _, s := range slices.Backward(now.Services) {
		put(command{Verb: "service", Service: recordService(s.Service), Number: s.Number()})
		for _, dst := range now.Trash[s] {
			server(s, dst)
			put(command{Verb: "delete server", Key: recordKey(s.ServiceKey), Addr: dst.Conf().AddrPort()})
		}
		for _, dst := range slices.Backward(s.Dests()) {
			server(s, dst)
		}
	}
	return records, err
}

// rewrite puts the present state in the place of what was recorded, in a larger journal if
// this one would soon be full again. Where none can be had, it does as long as it is large
// enough.
func (e live) rewrite() error {
	all, err := e.snapshot()
	if err != nil {
		return err
	}
	var refused error
	if size := e.journal.Larger(all); size != 0 {
		var larger *journal.Journal
		refused = e.path.State.ReplaceJournal(size, func(block []byte) (err error) {
			if larger, err = journal.New(block); err != nil {
				return err
			}
			return larger.Rewrite(all)
		})
		if refused == nil {
			e.journal = larger
			return nil
		}
	}
	if err := e.journal.Rewrite(all); err != nil {
		return fmt.Errorf("%w, and cannot grow: %w", err, refused)
	}
	return nil
}

// Load carries out load, which sets the director up. What a process leaves that ends
// before load has returned nil is not adopted by another.
func (d *Director) Load(load func() error) error {
	mark := func(do string, loading bool) error {
		d.ctl.Lock()
		defer d.ctl.Unlock()
		d.loading = loading
		return d.effects.record(command{Verb: do})
	}
	if err := mark("load", true); err != nil {
		return err
	}
	if err := load(); err != nil {
		return err
	}
	return mark("loaded", false)
}

// replayer carries out the commands of an earlier process's journal, by the same verbs.
type replayer struct{ *Director }

// replay carries out the commands of a journal's records.
func (r replayer) replay(records [][]byte) error {
	for _, text := range records {
		var c command
		if err := json.Unmarshal(text, &c); err != nil {
			return fmt.Errorf("%q: %w", text, err)
		}
		if err := r.apply(&c); err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
	}
	if r.loading {
		return errors.New("the start that made it did not come to its end")
	}
	return nil
}

func (r replayer) apply(c *command) error {
	switch c.Verb {
	case "load", "loaded":
		r.loading = c.Verb == "load"
		return nil
	case "service":
		return adding(r).add(c.Service.service(), c.Number)
	case "edit service":
		return r.EditService(c.Service.service())
	case "delete service":
		return r.DeleteService(c.Key.key())
	case "clear":
		return r.Clear()
	case "server":
		return r.addDestination(c.Key.key(), c.Destination.destination(), c.Number)
	case "edit server":
		return r.EditDestination(c.Key.key(), c.Destination.destination())
	case "delete server":
		return r.DeleteDestination(c.Key.key(), c.Addr)
	case "forget":
		r.path.State.Purge(c.Number)
		return nil
	case "timeouts":
		if err := r.SetTimeouts(c.Timeouts.timeouts()); err != nil {
			return err
		}
		r.path.State.SetGeneration(c.Generation)
		return nil
	case "sysctl":
		return r.SetSysctl(c.Name, c.Value)
	case "marks":
		return r.MarkRestore(c.IPv6, c.Text)
	}
	return errors.New("this version does not know it")
}

// openJournal begins a journal in a block, which may be nil, or replays the one that an
// earlier process left there.
func (d *Director) openJournal(block []byte) (err error) {
	switch {
	case block == nil:
		return nil
	case !d.adopted:
		d.journal, err = journal.New(block)
		return err
	}
	var records [][]byte
	if d.journal, records, err = journal.Open(block); err != nil {
		return fmt.Errorf("%w: %w", ErrKept, err)
	}
	if err = (replayer{d}).replay(records); err != nil {
		return fmt.Errorf("%w: its journal: %w", ErrKept, err)
	}
	return nil
}

// recordPurged records which real servers have left the trash. It does not wait
// for a command under way: the next Tick tries again.
func (d *Director) recordPurged(gone []*forward.Dest) {
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
		if d.path.State.Holds(id) {
			continue // the number is another's by now, which says the same
		}
		if err := d.effects.record(command{Verb: "forget", Number: id}); err != nil {
			d.log.Error("a change could not be recorded, and is forgotten when the daemon is started anew", "err", err)
		}
	}
	d.purged = nil
}
