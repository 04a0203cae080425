package conformance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
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
	// Patience is how long nothing must happen before the packets of a batch
	// that are still missing are given up; 0 is 300 ms.
	Patience time.Duration
}

// Play plays a scenario on a stage of its own and returns the answers, line by
// line.
func Play(ctx context.Context, sc *Scenario, subject Subject, opt Options) (answers []string, err error) {
	if opt.Patience == 0 {
		opt.Patience = 300 * time.Millisecond
	}
	var vips []netip.Addr
	if !opt.NoVIP {
		vips = sc.VIPs
	}
	st, err := newStage(vips)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	p := &player{stage: st, observer: newObserver(), patience: opt.Patience, next: 1}
	if p.wire, err = newWire(st, p.observer); err != nil {
		return nil, err
	}
	defer p.wire.close()
	if p.director, err = subject.Start(ctx, st.director); err != nil {
		return nil, fmt.Errorf("start director: %w", err)
	}
	defer func() { err = errors.Join(err, p.director.Close()) }()
	for _, step := range sc.Steps {
		if err := p.step(ctx, step); err != nil {
			return nil, fmt.Errorf("line %d: %w", step.Line, err)
		}
	}
	time.Sleep(grace)
	return p.answers(), nil
}

// grace is for what still travels when a scenario ends: a second copy, say.
const grace = 50 * time.Millisecond

type player struct {
	stage    *stage
	wire     *wire
	observer *observer
	director Director
	patience time.Duration
	next     int // number of the next packet
	record   []entry
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
	output, exit, err := p.director.Command(ctx, s.Command)
	if err != nil {
		return fmt.Errorf("%s: %w", strings.Join(s.Command, " "), err)
	}
	if s.Command[0] == "sysctl" && exit == 0 {
		output = "" // sysctl(8) always repeats what it set
	}
	if s.Show || exit != 0 || output != "" {
		p.record = append(p.record, entry{lines: answer(s.Command, exit, output)})
	}
	return nil
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
	first := p.next
	p.next += s.Count
	mac, unresolved := p.wire.resolve(s.Dst.Addr())
	if unresolved != nil && !errors.Is(unresolved, errUnresolved) {
		return unresolved
	}
	if unresolved != nil {
		mac = make(net.HardwareAddr, 6) // only to be numbered; it is not sent
	}
	var frames [][]byte
	for _, packet := range s.Packets(first) {
		frame, err := craft(packet, p.stage.client.MAC(), mac)
		if err != nil {
			return err
		}
		if err := p.observer.expect(packet, frame); err != nil {
			return err
		}
		p.record = append(p.record, entry{packet: packet})
		frames = append(frames, frame)
		if unresolved != nil {
			p.observer.answer(packet.Number, "unresolved")
		}
	}
	if unresolved != nil {
		return nil
	}
	if err := p.wire.send(frames); err != nil {
		return err
	}
	p.observer.settle(first, s.Count, p.patience)
	return nil
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
