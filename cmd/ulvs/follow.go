package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/director"
	"github.com/ulvs/ulvs/fwmark"
	"github.com/ulvs/ulvs/internal/hostmark"
)

// saidRules bounds how many rules that cannot be followed are remembered as said.
const saidRules = 1024

// followMarks gives the director the host's mark rules, and returns what keeps
// it up to date with them.
func (d *daemon) followMarks(lvs *director.Director, interfaces func() []string) (func(context.Context) error, error) {
	var err error
	if d.said, err = lru.New[string, struct{}](saidRules); err != nil {
		return nil, fmt.Errorf("--follow-marks: %w", err)
	}
	rules, err := hostmark.Read(interfaces()...)
	if err != nil {
		return nil, fmt.Errorf("--follow-marks: %w", err)
	}
	if err := d.take(lvs, rules); err != nil {
		return nil, fmt.Errorf("--follow-marks: %w", err)
	}
	follower, err := hostmark.New(hostmark.Options{Interfaces: interfaces, Problem: func(err error) {
		d.log.Error("the host's mark rules cannot be read; those known stay in force", "err", err)
	}})
	if err != nil {
		return nil, fmt.Errorf("--follow-marks: %w", err)
	}
	return func(ctx context.Context) error {
		defer follower.Close()
		err := follower.Run(ctx, func(r hostmark.Rules) error {
			if r.Equal(rules) {
				return nil // what we began with
			}
			rules = r
			return d.take(lvs, r)
		})
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("cannot follow the host's mark rules any more: %w", err)
	}, nil
}

// take puts the host's rules to work.
func (d *daemon) take(lvs *director.Director, r hostmark.Rules) error {
	if err := errors.Join(lvs.SetMarks(false, r.V4), lvs.SetMarks(true, r.V6)); err != nil {
		return err
	}
	d.log.Info("the host's mark rules", "followed", len(r.V4)+len(r.V6), "unfollowed", len(r.Unfollowed))
	d.warnUnfollowed(r.Unfollowed)
	return nil
}

// warnUnfollowed logs rules that cannot be followed, each once: the host's rules come as a
// whole after every change of one.
func (d *daemon) warnUnfollowed(list []string) {
	for _, text := range list {
		if said, _ := d.said.ContainsOrAdd(text, struct{}{}); !said {
			d.log.Warn("a rule of the host cannot be followed: packets that only it marks get no mark", "rule", text)
		}
	}
}

// unfollowed lists the host's rules that ulvs cannot evaluate, a line each.
func unfollowed() int {
	rules, err := hostmark.Read()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, text := range rules.Unfollowed {
		fmt.Println(text)
	}
	return 0
}

// MarkCommand implements ulvs.Control. The host's rules are looked at here, and
// changed by the host's own commands.
func (w *warned) MarkCommand(ipv6 bool, args []string) (string, error) {
	if w.follow && fwmark.Edits(ipv6, args) {
		return "", errFollowed
	}
	return w.Director.MarkCommand(ipv6, args)
}

// MarkRestore implements ulvs.Control.
func (w *warned) MarkRestore(ipv6 bool, text string) error {
	if w.follow {
		return errFollowed
	}
	return w.Director.MarkRestore(ipv6, text)
}

var errFollowed = fmt.Errorf("%w: the mark rules are the host's (--follow-marks): change them with its own iptables", ulvs.ErrInvalid)
