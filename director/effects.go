package director

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ulvs/ulvs/internal/journal"
)

// effects are what a command does besides changing the tables. The caller holds ctl, but
// for claim.
type effects interface {
	// claim tells the plane what the director answers for, and returns when it has heard.
	claim() error
	// claimIdle does so, unless a command is about to.
	claimIdle() error
	// record writes the command down.
	record(command) error
	// sweep ends the connections of real servers that are gone, with expire_nodest_conn.
	sweep()
	warn(text string, args ...any)
}

// replayed are the effects of a command that an earlier process has carried out: they
// have been.
type replayed struct{}

var _ effects = replayed{}

func (replayed) claim() error         { return nil }
func (replayed) claimIdle() error     { return nil }
func (replayed) record(command) error { return nil }
func (replayed) sweep()               {}
func (replayed) warn(string, ...any)  {}

// live are the effects of a command that is carried out now.
type live struct{ *Director }

var _ effects = live{}

func (e live) sweep()                        { e.path.Upkeep.SweepNoDest() }
func (e live) warn(text string, args ...any) { e.log.Warn(text, args...) }

// record writes down a command that was carried out, before it is answered. The
// caller holds ctl.
func (e live) record(c command) error {
	d := e.Director
	if d.journal == nil {
		return nil
	}
	record, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("a command cannot be recorded: %w", err)
	}
	if err = journal.ErrFull; !d.journalStale {
		err = d.journal.Append(record)
	}
	if errors.Is(err, journal.ErrFull) {
		err = e.rewrite()
	}
	// What is missing in the journal must not be built upon.
	d.journalStale = err != nil
	d.path.State.SetLoaded(!d.loading)
	if err != nil {
		return fmt.Errorf("the command was carried out, but will be forgotten when the daemon is started anew: %w", err)
	}
	return nil
}
