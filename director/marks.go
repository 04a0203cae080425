package director

import (
	"errors"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/fwmark"
)

// marks returns the table of a family's mark rules. The caller holds ctl.
func (d *Director) marks(ipv6 bool) *fwmark.Table {
	if ipv6 {
		return d.marks6
	}
	return d.marks4
}

// MarkCommand carries out the words of an iptables command, or with ipv6 of an ip6tables
// command, after the program's name, and returns what that would print. The error is
// package fwmark's, and ulvs.ErrInvalid where the words are wrong; nothing is changed then.
func (d *Director) MarkCommand(ipv6 bool, args []string) (out string, err error) {
	return out, d.changeMarks(ipv6, func(t *fwmark.Table) error {
		out, err = t.Command(args)
		return err
	})
}

// MarkRestore puts the rules of a text in the place of a family's, as iptables-restore
// does, or nothing at all; the error names the line.
func (d *Director) MarkRestore(ipv6 bool, text string) error {
	return d.changeMarks(ipv6, func(t *fwmark.Table) error { return t.Restore(text) })
}

// SetMarks puts rules in the place of a family's mark rules, as a whole. The
// error names the rule that fwmark.Table.SetRules refuses.
func (d *Director) SetMarks(ipv6 bool, rules []fwmark.Rule) error {
	return d.changeMarks(ipv6, func(t *fwmark.Table) error { return t.SetRules(rules) })
}

// changeMarks lets f change a copy of the rules and puts it to work as a whole, once the
// plane has heard of it.
func (d *Director) changeMarks(ipv6 bool, f func(*fwmark.Table) error) error {
	d.marking.Lock()
	defer d.marking.Unlock()
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
	if now.Equal(was) {
		return nil
	}
	announced := &d.announced.marks[0]
	if ipv6 {
		announced = &d.announced.marks[1]
	}
	*announced = now
	d.ctl.Unlock()
	err := d.effects.claim()
	d.ctl.Lock()
	*announced = nil
	if err != nil {
		d.ctl.Unlock()
		_ = d.effects.claim() // what was told already is as it was, as far as that can be
		d.ctl.Lock()
		return err
	}
	if ipv6 {
		d.marks6 = now
	} else {
		d.marks4 = now
	}
	isakmp := d.path.Commands.SetMarks(ipv6, fwmark.Compile(now.Rules()), len(now.Rules()) > 0)
	record := d.effects.record(command{Verb: "marks", IPv6: ipv6, Text: now.Save()})
	if isakmp {
		d.ctl.Unlock()
		err = d.effects.claim()
		d.ctl.Lock()
	}
	return errors.Join(err, record)
}

// wordsError is a mistake in the words of a mark command, not one that depends
// on the rules there are; iptables exits with 2 and with 1.
type wordsError struct{ error }

func (e wordsError) Is(target error) bool { return target == ulvs.ErrInvalid }
func (e wordsError) Unwrap() error        { return e.error }

// MarkSave returns a family's mark rules as iptables-save prints them. It cannot fail.
func (d *Director) MarkSave(ipv6 bool) (string, error) {
	d.ctl.Lock()
	defer d.ctl.Unlock()
	return d.marks(ipv6).Save(), nil
}
