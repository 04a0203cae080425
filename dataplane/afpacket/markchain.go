package afpacket

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
)

// marks adds what drops the packets of firewall-mark services: the rules of each family,
// carried out on the packet's own mark in chains of the same names, and a chain that
// drops what ends up with a mark of the list.
func (b *builder) marks(c *dataplane.Claims) {
	if len(c.Marks4) == 0 && len(c.Marks6) == 0 {
		return
	}
	b.setMark(0)
	b.markHooks(&ipv4, "-4", nil, c.Rules4, c.Marks4)
	// In later fragments of IPv6, unlike in those of IPv4, the kernel takes what stands
	// at the packet's start for ports (seen on 6.18: conformance, fragments-marked), so
	// rules that ask for ports are not for them.
	portless := slices.DeleteFunc(slices.Clone(c.Rules6), func(r dataplane.MarkRule) bool { return len(r.Ports) > 0 })
	b.markHooks(&ipv6, "-6-later", ipv6.laterFragment(), portless, c.Marks6)
	b.markHooks(&ipv6, "-6", nil, c.Rules6, c.Marks6)
}

// markHooks sends a family's packets for which only holds through PREROUTING, INPUT and
// the chain that drops. What a hook accepts must not come back from the chains that
// jumped there, so it goes on from where it is: by a goto, to the next hook.
func (b *builder) markHooks(f *ipFamily, suffix string, only exprs, rules []dataplane.MarkRule, list []uint32) {
	if len(list) == 0 {
		return
	}
	h := hook{builder: *b, family: f, suffix: suffix, rules: map[string][]dataplane.MarkRule{}, made: map[string]bool{}}
	h.next = h.newChain("served" + suffix)
	in := h
	for _, r := range rules {
		h.rules[r.Chain] = append(h.rules[r.Chain], r)
	}
	h.served(list)
	if len(h.rules[dataplane.InputChain]) > 0 {
		in.suffix += "-input"
		in.made = map[string]bool{}
		first := in.fill(dataplane.InputChain)
		h.builder.made, h.err = in.builder.made, in.err
		next := h.newChain("accepted" + suffix)
		h.add(goes(expr.VerdictJump, first))
		h.add(goes(expr.VerdictGoto, h.next))
		h.next = next
	}
	first := h.fill(dataplane.PreroutingChain)
	b.made, b.err = h.builder.made, h.err
	for _, v := range []expr.Any{goes(expr.VerdictJump, first), goes(expr.VerdictGoto, h.next)} {
		b.add(join(f.is(), only, exprs{v})...)
	}
}

// hook builds the chains that packets of one hook pass.
type hook struct {
	builder
	family *ipFamily
	suffix string // tells apart what one chain becomes for families and hooks
	rules  map[string][]dataplane.MarkRule
	made   map[string]bool
	next   string // the chain in which a packet goes on that the hook accepts
}

func goes(kind expr.VerdictKind, chain string) expr.Any {
	return &expr.Verdict{Kind: kind, Chain: chain}
}

// newChain adds a chain and makes it the one to which rules are added.
func (h *hook) newChain(name string) string {
	h.chain = h.conn.AddChain(&nftables.Chain{Table: h.table, Name: name})
	h.builder.made = append(h.builder.made, name)
	return name
}

// served fills the chain that drops what has a mark of the list. What IPVS does not
// balance is the host's, whatever its mark: pings, neighbour solicitations.
func (h *hook) served(list []uint32) {
	var keys [][]byte
	for _, m := range list {
		keys = append(keys, hostOrder(m))
	}
	protocols := [][]byte{{unix.IPPROTO_TCP}, {unix.IPPROTO_UDP}, {unix.IPPROTO_SCTP}}
	for part := range slices.Chunk(unique(keys), setSize) {
		h.add(join(exprs{meta(metaL4Proto, 1), h.lookup(nftables.TypeInetProto, protocols, 1)},
			exprs{meta(metaMark, 1), h.lookup(nftables.TypeMark, part, 1), &expr.Verdict{Kind: expr.VerdictDrop}})...)
	}
	h.setMark(0) // The host's own rules start from an unmarked packet.
	h.add(accept)
}

// fill makes a chain, and first those that it goes to, each once.
func (h *hook) fill(name string) string {
	full := h.full(name)
	if h.made[full] {
		return full
	}
	h.made[full] = true
	for _, r := range h.rules[name] {
		if r.To != "" {
			h.fill(r.To)
		}
	}
	h.newChain(full)
	for i := range h.rules[name] {
		r := &h.rules[name][i]
		h.markRule(h.family, r, h.act(r))
	}
	return full
}

// full is a chain's name in the table. No two chains of rules share one, nor one with
// the other chains there.
func (h *hook) full(name string) string {
	if name == dataplane.PreroutingChain {
		name = "PREROUTING"
	}
	return "mark-" + name + h.suffix
}

// act is what a rule does.
func (h *hook) act(r *dataplane.MarkRule) exprs {
	switch r.Verb {
	case dataplane.Accept:
		return exprs{goes(expr.VerdictGoto, h.next)}
	case dataplane.Return:
		return exprs{&expr.Verdict{Kind: expr.VerdictReturn}}
	case dataplane.Jump:
		return exprs{goes(expr.VerdictJump, h.full(r.To))}
	case dataplane.Goto:
		return exprs{goes(expr.VerdictGoto, h.full(r.To))}
	}
	return exprs{
		meta(metaMark, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: hostOrder(^r.Mask), Xor: hostOrder(r.Value)},
		&expr.Meta{Key: metaMark, Register: 1, SourceRegister: true},
	}
}
