package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// report is what a measurement came to. Its JSON is for programs.
type report struct {
	Interface string `json:"interface"`
	VIP       string `json:"vip"`
	// XDP is how frames are counted: native or generic.
	XDP  string `json:"xdp"`
	CPUs []int  `json:"cpus,omitempty"`
	Size int    `json:"size,omitempty"`
	// Flows is how many connections there were, of which Opened were opened; New says
	// that each packet was another.
	Flows   uint32   `json:"flows,omitempty"`
	Opened  uint64   `json:"opened,omitempty"`
	New     bool     `json:"new,omitempty"`
	Seconds []sample `json:"seconds"`
	Took    float64  `json:"took"` // seconds
	Sent    uint64   `json:"sent"`
	// Returned is how many came back, or were counted.
	Returned          uint64  `json:"returned"`
	Lost              int64   `json:"lost"`
	SentPerSecond     float64 `json:"sent_per_second"`
	ReturnedPerSecond float64 `json:"returned_per_second"`
	// InterfaceTx and InterfaceRx are the interface's own counters, ByCPU what came
	// back by the CPU that took it.
	InterfaceTx uint64         `json:"interface_tx"`
	InterfaceRx uint64         `json:"interface_rx"`
	ByCPU       map[int]uint64 `json:"returned_by_cpu"`
	Interrupted bool           `json:"interrupted"`

	seconds int
}

// sample is a second of it.
type sample struct {
	Second   int    `json:"second"`
	Sent     uint64 `json:"sent"`
	Returned uint64 `json:"returned"`
}

func (r *report) total(took float64, sent, returned uint64) {
	r.Took, r.Sent, r.Returned, r.Lost = took, sent, returned, int64(sent-returned)
	r.SentPerSecond, r.ReturnedPerSecond = float64(sent)/took, float64(returned)/took
}

// printer prints a report while it comes about.
type printer struct {
	out    io.Writer
	json   bool
	counts bool // nothing is sent
}

func (p *printer) say(format string, args ...any) {
	if !p.json {
		fmt.Fprintf(p.out, format, args...)
	}
}

func (p *printer) begin(r *report) {
	if p.counts {
		p.say("counting packets to %s on %s for %d s, by %s XDP\n%8s %12s\n", r.VIP, r.Interface, r.seconds, r.XDP, "second", "counted")
		return
	}
	what := fmt.Sprintf("packets of %d connections", r.Flows)
	if r.New {
		what = "SYNs of new connections"
	}
	p.say("sending %s to %s by %s for %d s: frames of %d bytes, CPU %s; counted by %s XDP\n", what, r.VIP, r.Interface, r.seconds, r.Size, list(r.CPUs), r.XDP)
	if r.New {
		p.heading()
	}
}

func (p *printer) opened(r *report) {
	p.say("opened %d of %d connections\n", r.Opened, r.Flows)
	p.heading()
}

func (p *printer) heading() { p.say("%8s %12s %12s\n", "second", "sent", "returned") }

func (p *printer) second(s sample) {
	if p.counts {
		p.say("%8d %12d\n", s.Second, s.Returned)
	} else {
		p.say("%8d %12d %12d\n", s.Second, s.Sent, s.Returned)
	}
}

func (p *printer) end(r *report) error {
	if p.json {
		e := json.NewEncoder(p.out)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	if p.counts {
		p.say("%8s %12d\n%8s %12.0f\n", "all", r.Returned, "a second", r.ReturnedPerSecond)
	} else {
		p.say("%8s %12d %12d\n%8s %12.0f %12.0f\n", "all", r.Sent, r.Returned, "a second", r.SentPerSecond, r.ReturnedPerSecond)
		share := 0.0
		if r.Sent > 0 {
			share = 100 * float64(r.Lost) / float64(r.Sent)
		}
		p.say("lost %d (%.3f %%)\n", r.Lost, share)
	}
	p.say("%s itself counted %d frames out and %d in\n", r.Interface, r.InterfaceTx, r.InterfaceRx)
	var by []string
	for _, cpu := range slices.Sorted(maps.Keys(r.ByCPU)) {
		by = append(by, fmt.Sprintf("%d: %d", cpu, r.ByCPU[cpu]))
	}
	if len(by) > 0 {
		p.say("by receiving CPU: %s\n", strings.Join(by, ", "))
	}
	if r.Interrupted {
		p.say("interrupted\n")
	}
	return nil
}

func list(numbers []int) string {
	words := make([]string, len(numbers))
	for i, n := range numbers {
		words[i] = fmt.Sprint(n)
	}
	return strings.Join(words, ",")
}
