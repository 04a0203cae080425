package conformance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ulvs/ulvs/internal/lab"
)

// Subject is a kind of director: the kernel's, or ulvs.
type Subject interface {
	// Start makes a director in a host that has been set up, and returns when
	// it is ready for commands. ctx ends it.
	Start(ctx context.Context, host *lab.Host) (Director, error)
}

// Director is one running director.
type Director interface {
	// Command carries out one command of a scenario, by program and arguments,
	// and returns what it printed and its exit code. An error means that it
	// could not be asked at all.
	Command(ctx context.Context, words []string) (output string, exit int, err error)
	// Close ends the director. An error says that it was not well.
	Close() error
}

// Options say how to play. The zero value is the recordings' way.
type Options struct {
	// NoVIP leaves the virtual addresses off the director's interface: the
	// director has to answer for them itself.
	NoVIP bool
	// NoResolve gives all packets to the director, and saves asking who has
	// their destinations.
	NoResolve bool
	// Patience is how long, after the barrier behind a batch, packets of the
	// batch may still appear; 0 is 10 ms.
	Patience time.Duration
}

// Play plays a scenario on a stage of its own and returns the answers, line by
// line.
func Play(ctx context.Context, sc *Scenario, subject Subject, opt Options) (answers []string, err error) {
	t := Theatre{Subject: subject, Options: opt}
	defer func() { err = errors.Join(err, t.Close()) }()
	return t.Play(ctx, sc)
}

// Theatre plays scenarios one after the other, each against a fresh director.
// The rest of the stage stays: that is quicker.
type Theatre struct {
	Subject Subject
	Options Options

	stage *stage
	plays int // on this stage
}

// turns is how many plays a stage sees. Old directors' namespaces are kept as
// long as the stage.
const turns = 30

// Play plays a scenario and returns the answers, line by line.
func (t *Theatre) Play(ctx context.Context, sc *Scenario) (answers []string, err error) {
	var vips []netip.Addr
	if !t.Options.NoVIP {
		vips = sc.VIPs
	}
	defer func() {
		if err != nil { // whatever the state is now, nobody shall inherit it
			err = errors.Join(err, t.Close())
		}
	}()
	if err := t.set(vips); err != nil {
		return nil, err
	}
	return t.play(ctx, sc)
}

// set sets the stage.
func (t *Theatre) set(vips []netip.Addr) (err error) {
	if t.plays++; t.plays > turns {
		if err := t.Close(); err != nil {
			return err
		}
	}
	defer func() {
		if u, is := t.Subject.(Ulvs); err == nil && is && u.inDriver() {
			err = t.stage.lab.TakeXDP(t.stage.director)
		}
	}()
	if t.stage != nil {
		return t.stage.renew(vips)
	}
	t.stage, err = newStage(vips)
	return err
}

// Close takes the stage down.
func (t *Theatre) Close() error {
	st := t.stage
	t.stage, t.plays = nil, 0
	if st == nil {
		return nil
	}
	return st.close()
}

func (t *Theatre) play(ctx context.Context, sc *Scenario) (answers []string, err error) {
	p := &player{stage: t.stage, observer: newObserver(), patience: t.Options.Patience, next: 1,
		resolve: !t.Options.NoResolve}
	if p.patience == 0 {
		p.patience = 10 * time.Millisecond
	}
	if p.wire, err = newWire(t.stage); err != nil {
		return nil, err
	}
	defer p.wire.close()
	if p.director, err = t.Subject.Start(ctx, t.stage.director); err != nil {
		return nil, fmt.Errorf("start director: %w", err)
	}
	defer func() { err = errors.Join(err, p.director.Close()) }()
	if s, ok := p.director.(interface{ BarrierService() bool }); ok {
		p.viaService = s.BarrierService()
	}
	for _, step := range sc.Steps {
		if err := p.step(ctx, step); err != nil {
			return nil, fmt.Errorf("line %d: %w", step.Line, err)
		}
	}
	time.Sleep(p.patience)
	if err := p.wire.hear(p.observer); err != nil {
		return nil, err
	}
	return p.answers(), nil
}

// moment is how long a command waits after packets, and all else after what
// deletes. What a packet ends at once, the kernel ends at its next tick, in the
// guest within 10 ms.
const moment = 40 * time.Millisecond

type player struct {
	stage    *stage
	wire     *wire
	observer *observer
	director Director
	patience time.Duration
	next     int // number of the next packet
	// barriers counts barriers; viaService says what way they go.
	barriers   int
	viaService bool
	resolve    bool // find out who has an address
	sent       bool // since the last command
	deleted    bool // the last command deleted something
	seen       map[flow]bool
	record     []entry
	// clock is when the last sleep should have ended, or the first packet was
	// sent.
	clock time.Time
}

// entry is a piece of the answers: lines, or a packet whose outcome is read at
// the very end, so that one that comes late is not lost.
type entry struct {
	lines  []string
	packet Packet
}

func (p *player) step(ctx context.Context, s Step) error {
	switch {
	case s.Sleep > 0:
		return p.sleep(ctx, s.Sleep)
	case s.Send != nil:
		return p.send(s.Send)
	}
	p.pause(&p.sent)
	p.pause(&p.deleted)
	output, exit, err := p.director.Command(ctx, s.Command)
	if err != nil {
		return fmt.Errorf("%s: %w", strings.Join(s.Command, " "), err)
	}
	if s.Command[0] == "sysctl" && exit == 0 {
		output = "" // sysctl(8) always repeats what it set
	}
	p.deleted = slices.ContainsFunc(s.Command, isDeletion)
	if s.Show || exit != 0 || output != "" {
		p.record = append(p.record, entry{lines: answer(s.Command, exit, output)})
	}
	return nil
}

// isDeletion tells commands after which, with expire_nodest_conn, the kernel
// ends connections in the background (ip_vs_expire_nodest_conn_flush).
func isDeletion(word string) bool { return word == "-D" || word == "-d" || word == "-C" }

// pause waits a moment if it is due, once.
func (p *player) pause(due *bool) {
	if *due {
		time.Sleep(moment)
	}
	*due = false
}

// sleep sleeps for d, less what commands since the last sleep have taken: on a
// slow machine their time would add up, and timeouts be listed seconds late.
// But it is never cut by more than a fifth.
func (p *player) sleep(ctx context.Context, d time.Duration) error {
	rest := d
	if !p.clock.IsZero() {
		p.clock = p.clock.Add(d)
		rest = max(time.Until(p.clock), d*4/5)
	}
	select {
	case <-time.After(rest):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *player) send(s *Send) error {
	if p.clock.IsZero() {
		p.clock = time.Now()
	}
	p.pause(&p.deleted)
	first := p.next
	p.next += s.Count
	mac, unresolved := p.stage.director.MAC(), error(nil)
	if p.resolve {
		mac, unresolved = p.wire.resolve(s.Dst.Addr())
	}
	if unresolved != nil && !errors.Is(unresolved, errUnresolved) {
		return unresolved
	}
	if unresolved != nil {
		mac = make(net.HardwareAddr, 6) // only to be numbered; it is not sent
	}
	var frames [][][]byte // of each packet
	reopens := false
	for _, packet := range s.Packets(first) {
		pieces, err := craft(packet, p.stage.client.MAC(), mac)
		if err != nil {
			return err
		}
		if err := p.observer.expect(packet, pieces); err != nil {
			return err
		}
		p.record = append(p.record, entry{packet: packet})
		frames = append(frames, pieces)
		reopens = p.reopens(packet) || reopens
		if unresolved != nil {
			p.observer.answer(packet.Number, "unresolved")
		}
	}
	if unresolved != nil {
		return nil
	}
	if !reopens {
		return p.batch(first, frames...)
	}
	for i := range frames {
		if err := p.batch(first+i, frames[i]); err != nil {
			return err
		}
		p.pause(&p.sent)
	}
	return nil
}

// batch sends packets from the number first on, by their frames.
func (p *player) batch(first int, packets ...[][]byte) error {
	p.sent = true
	if s, ok := p.director.(interface{ Sending() func() }); ok {
		defer s.Sending()()
	}
	if err := p.wire.send(slices.Concat(packets...)...); err != nil {
		return err
	}
	return p.settle(first, len(packets))
}

// reopens reports whether a packet opens a connection of ports that were seen
// before: it may replace the old connection, which counts to the kernel's next
// tick.
func (p *player) reopens(packet Packet) bool {
	f := flow{packet.Proto, packet.Src, packet.Dst}
	opens := packet.Proto == "tcp" && strings.Contains(packet.Flags, "S") || strings.HasPrefix(packet.Flags, "INIT")
	seen := p.seen[f]
	if p.seen == nil {
		p.seen = make(map[flow]bool)
	}
	p.seen[f] = true
	return seen && opens
}

// flow is what a connection is known by.
type flow struct {
	proto    string
	src, dst netip.AddrPort
}

func (p *player) answers() []string {
	var lines []string
	for _, e := range p.record {
		if e.packet.Number != 0 {
			e.lines = []string{fmt.Sprintf("%v -> %s", e.packet, p.observer.outcome(e.packet.Number))}
		}
		lines = append(lines, e.lines...)
	}
	return lines
}
