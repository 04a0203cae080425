package hostmark

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ulvs/ulvs/fwmark"
)

// kind is what a rule does, as far as marks are concerned.
type kind uint8

const (
	marks        kind = iota
	marksUnknown      // sets bits of the mark in a way that fwmark cannot
	accepts           // ends the way through the base chain; the packet lives
	drops
	returns  // ends the way through the chain
	rewrites // changes what later rules look at
	retos    // changes the type of service, which few rules look at
	jumps
	goes // jumps and does not come back
)

// effect is one thing that a rule does, and when.
type effect struct {
	kind        kind
	value, mask uint32
	target      string // chain
	when        []fwmark.Rule
	exact       bool // when is all that is needed
}

// step is a rule of whatever firewall. Those without effects have no part in
// marks.
type step struct {
	id      string // the same for one rule of both families
	text    string
	effects []effect
}

// chain is a chain of whatever firewall.
type chain struct {
	steps []step
	name  string
	hook  string // hookPrerouting or hookInput
	// later: behind destination NAT, which may change what the steps look at.
	later bool
}

// The chains of mangle into which the base chains of a hook go.
const (
	hookPrerouting = "" // fwmark's PREROUTING
	hookInput      = "INPUT"
)

// walker reads one rule.
type walker struct {
	condition
	iptables bool // how to print
	chain    string
	line     []string
	sets     func(name string) *nftSet
	regs     [16]*value
	marked   int // how often the rule has set the mark
	effects  []effect
	scratch  *fwmark.Table
	// interfaces are those that ulvs takes packets from.
	interfaces interfaces
}

// interfaces are names; nil are all but lo.
type interfaces []string

// match reports that a packet from one of them may fulfil a condition.
func (list interfaces) match(c fwmark.Interface) bool {
	if list == nil {
		return c.Name != "lo" || c.Not
	}
	return slices.ContainsFunc(list, c.Matches)
}

// words adds to the rule's text; in iptables', only what is behind -j.
func (w *walker) words(words ...string) { w.line = append(w.line, words...) }

// nft adds what iptables says in other words.
func (w *walker) nft(words ...string) {
	if !w.iptables {
		w.words(words...)
	}
}

// effect notes what the rule does under the conditions read so far.
func (w *walker) effect(e effect) {
	if w.never {
		return
	}
	e.when, e.exact = w.rules()
	e.exact = e.exact && !slices.ContainsFunc(e.when, w.unsaid)
	sets := e.kind == marks || e.kind == marksUnknown
	switch {
	case !sets && w.marked > 0 && slices.ContainsFunc(e.when, func(r fwmark.Rule) bool { return onMark(&r) != 0 }):
		e.exact = false // the condition saw the mark before the rule changed it
	case e.kind == jumps && w.choosesMark():
		e.exact = false // the chain may make what a second rule wants
	}
	if !e.exact { // what ulvs takes no packets from is no matter
		e.when = slices.DeleteFunc(e.when, func(r fwmark.Rule) bool { return !w.interfaces.match(r.In) })
		if len(e.when) == 0 {
			return
		}
	}
	if len(e.when) > 0 || !e.exact {
		w.effects = append(w.effects, e)
	}
}

// mark notes that the rule sets the mark.
func (w *walker) mark(value, mask uint32) {
	n := len(w.effects)
	w.effect(effect{kind: marks, value: value, mask: mask})
	if w.marked++; len(w.effects) == n {
		return
	}
	e := &w.effects[n]
	if w.choosesMark() && value&^mask != 0 {
		e.exact = false
	}
	for i := range e.when {
		r := &e.when[i]
		r.Value, r.Mask = value, mask
		if w.marked > 1 && onMark(r) != 0 {
			e.exact = false // the condition saw the mark before the first change
		}
	}
}

// unsaid reports that iptables has no words for a rule's conditions: those cannot be
// evaluated.
func (w *walker) unsaid(r fwmark.Rule) bool {
	defer w.scratch.Flush()
	return w.scratch.Append(r) != nil
}

// step is the rule that was read.
func (w *walker) step(id, place, comment string) step {
	s := step{id: id, effects: w.effects}
	switch {
	case len(s.effects) == 0:
	case w.iptables:
		s.text = w.iptablesText()
	default:
		s.text = "add rule " + place + " " + hide(strings.Join(w.line, " "))
		if comment != "" {
			s.text += " comment " + strconv.Quote(comment)
		}
	}
	return s
}

// arguments are a rule's conditions in iptables' words.
func arguments(r fwmark.Rule) string {
	s := strings.TrimPrefix(r.String(), "-A PREROUTING")
	return s[:strings.LastIndex(s, " -j MARK")]
}

// iptablesText is the rule as iptables -S would print it, as far as it is
// known: words of modules that are not are dots.
func (w *walker) iptablesText() string {
	c := w.condition
	c.slots, c.tuples, c.never = nil, nil, false
	slots := w.slots
	ports := len(c.tests[sourcePort])+len(c.tests[destPort])+len(c.tests[tcpFlags]) > 0
	list, _ := c.rules()
	var head fwmark.Rule
	if len(list) == 1 {
		head = list[0]
	} else if len(list) > 1 {
		head.Protocol = list[0].Protocol
	}
	text := "-A " + w.chain + arguments(head)
	for _, s := range slots {
		switch {
		case s.text != "":
			text += " " + s.text
		case s.ports && ports:
			if variants, ok := w.portMatches(); ok && len(variants) > 0 {
				text += w.matchText(head, variants[0]...)
			}
		case s.marks != nil:
			text += " -m mark ..."
		case s.match.Kind != 0:
			text += w.matchText(head, s.match)
		}
	}
	return text + " " + strings.Join(w.line, " ")
}

func (w *walker) matchText(head fwmark.Rule, list ...fwmark.Match) string {
	only := fwmark.Rule{Protocol: head.Protocol}
	before := arguments(only)
	only.Matches = list
	return strings.TrimPrefix(arguments(only), before)
}

// verdict carries a verdict of nftables or iptables into the rule.
func (w *walker) verdict(v *verdict) {
	name, e := "", effect{target: v.chain}
	switch v.code {
	case nfAccept:
		name, e.kind = "accept", accepts
	case nfDrop:
		name, e.kind = "drop", drops
	case nftReturn:
		name, e.kind = "return", returns
	case nftJump:
		name, e.kind = "jump", jumps
	case nftGoto:
		name, e.kind = "goto", goes
	case nftContinue:
		w.words("continue")
		return
	default: // queue, and what else there may be
		name, e.kind = fmt.Sprintf("verdict %d", v.code), accepts
		if v.code&0xff == nfQueue {
			name = "queue"
		}
	}
	switch {
	case !w.iptables:
		w.words(name)
		if v.chain != "" {
			w.words(v.chain)
		}
	case e.kind == jumps:
		w.words("-j", v.chain)
	case e.kind == goes:
		w.words("-g", v.chain)
	default:
		w.words("-j", strings.ToUpper(name))
	}
	w.effect(e)
}

// Verdicts (include/uapi/linux/netfilter.h, netfilter/nf_tables.h).
const (
	nfDrop      = 0
	nfAccept    = 1
	nfQueue     = 3
	nftContinue = -1
	nftJump     = -3
	nftGoto     = -4
	nftReturn   = -5
)
