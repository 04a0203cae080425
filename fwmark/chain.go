package fwmark

import (
	"cmp"
	"slices"
	"strings"
)

// maxNesting is how many chains deep PREROUTING and INPUT together may jump.
// nftables goes 15 deep from a hook (NFT_JUMP_STACK_SIZE); what keeps the host
// from marked packets is one chain of its own, which goes through both hooks.
const maxNesting = 11

// targets are what -j names that is no chain: no chain may have such a name
// (iptables/xshared.c, parse_chain).
var targets = strings.Fields(`ACCEPT DROP QUEUE RETURN AUDIT CHECKSUM CLASSIFY CLUSTERIP CONNMARK CONNSECMARK CT
	DNAT DNPT DSCP ECN HL HMARK IDLETIMER LED LOG MARK MASQUERADE NETMAP NFLOG NFQUEUE NOTRACK RATEEST REDIRECT
	REJECT SECMARK SET SNAT SNPT SYNPROXY TCPMSS TCPOPTSTRIP TEE TOS TPROXY TRACE TTL ULOG`)

// chain finds a chain by its name; "" is PREROUTING. nil: there is none.
func (t *Table) chain(name string) *chain {
	if name == "" {
		return &t.chains[0]
	}
	for i := range builtin {
		if builtin[i] == name {
			return &t.chains[i]
		}
	}
	if i, ok := t.search(name); ok {
		return &t.chains[i]
	}
	return nil
}

// search finds the place of a chain of one's own.
func (t *Table) search(name string) (int, bool) {
	own := t.chains[len(builtin):]
	i, ok := slices.BinarySearchFunc(own, name, func(c chain, n string) int { return cmp.Compare(c.name, n) })
	return len(builtin) + i, ok
}

// badName says why a chain cannot have a name, in iptables' words
// (iptables/xshared.c, assert_valid_chain_name and parse_chain).
func badName(name string) error {
	switch {
	case name == "":
		return wrong("chain name not allowed to be empty")
	case strings.IndexByte("-!", name[0]) >= 0:
		return wrong("chain name not allowed to start with `" + name[:1] + "'")
	case slices.Contains(targets, name):
		return wrong("chain name may not clash with target name")
	case strings.ContainsAny(name, " \t\n\v\f\r\"\x00"):
		return wrong("Invalid chain name `" + name + "'")
	case len(name) > 28:
		return wrong("chain name `" + name + "' too long (must be under 29 chars)")
	}
	return nil
}

// NewChain makes a chain without rules.
func (t *Table) NewChain(name string) error {
	if err := badName(name); err != nil {
		return t.named(err)
	}
	if t.chain(name) != nil {
		return t.named(failed(textChainExists))
	}
	if !t.room(1) {
		return t.named(failed(textTooMany))
	}
	t.size++
	i, _ := t.search(name)
	t.chains = slices.Insert(t.chains, i, chain{name: name})
	return nil
}

// DeleteChain removes a chain of one's own that has no rules and is not jumped
// to; "" stands for all of them.
func (t *Table) DeleteChain(name string) error {
	if name != "" && t.chain(name) == nil {
		return t.named(failed(textNoChain))
	}
	references := t.references()
	busy := ""
	for i := range t.chains {
		c := &t.chains[i]
		own := i >= len(builtin)
		if (own && name == "" || c.name == name) && (!own || len(c.rules) > 0 || references[c.name] > 0) {
			busy = c.name // of several, the last one is named
		}
	}
	if busy != "" {
		return t.named(failed("CHAIN_DEL failed (Device or resource busy): chain " + busy))
	}
	t.chains = slices.DeleteFunc(t.chains, func(c chain) bool {
		return (name == "" || c.name == name) && !slices.Contains(builtin, c.name)
	})
	return nil
}

// RenameChain gives a chain of one's own another name, also where it is jumped to.
func (t *Table) RenameChain(name, next string) error {
	if err := badName(next); err != nil {
		return t.named(err)
	}
	i, ok := t.search(name)
	switch {
	case !ok:
		return t.named(failed(textNoChain))
	case t.chain(next) != nil:
		return t.named(failed(textFileExists))
	}
	c := t.chains[i]
	for j := range c.rules {
		c.rules[j].Chain = next
	}
	t.chains = slices.Delete(t.chains, i, i+1)
	i, _ = t.search(next)
	t.chains = slices.Insert(t.chains, i, chain{next, c.rules})
	for i := range t.chains {
		for j := range t.chains[i].rules {
			if r := &t.chains[i].rules[j]; r.To == name {
				r.To = next
			}
		}
	}
	return nil
}

// references counts the rules that go to each chain.
func (t *Table) references() map[string]int {
	n := map[string]int{}
	for i := range t.chains {
		for j := range t.chains[i].rules {
			if to := t.chains[i].rules[j].To; to != "" {
				n[to]++
			}
		}
	}
	return n
}

// sound refuses jumps in a circle, to a built-in chain, and too many that lie
// in one another, in the words of iptables-nft for a rule that was added. In a
// whole text, name is "" and the chain is the one in which that was seen.
func (t *Table) sound(command byte, name string) error {
	refused := func(why, in string) error {
		if name != "" {
			in = name
		}
		verb := map[byte]string{'I': "RULE_INSERT", 'R': "RULE_REPLACE"}[command]
		return failed(cmp.Or(verb, "RULE_APPEND") + " failed (" + why + "): rule in chain " + in)
	}
	const under, done = -1, 1 // while a chain is looked at, and plus its depth
	depths := map[string]int{}
	var bad error
	var depth func(c *chain) int
	depth = func(c *chain) int {
		if d := depths[c.name]; d > 0 {
			return d - done
		}
		depths[c.name] = under
		deepest := 0
		for i := range c.rules {
			to := c.rules[i].To
			next := t.chain(to)
			if to == "" || bad != nil {
				continue
			}
			switch {
			case next == nil:
				bad = failed(textNoChain)
			case slices.Contains(builtin, to):
				bad = refused("Operation not supported", c.name)
			case depths[to] == under:
				bad = refused("Too many links", c.name)
			default:
				deepest = max(deepest, 1+depth(next))
			}
		}
		depths[c.name] = deepest + done
		return deepest
	}
	for i := range t.chains {
		depth(&t.chains[i])
	}
	switch pre, in := depths[prerouting]-done, depths[input]-done; {
	case bad == nil && pre+in > maxNesting && pre >= in:
		bad = refused("Too many links", prerouting)
	case bad == nil && pre+in > maxNesting:
		bad = refused("Too many links", input)
	}
	return bad
}

// room reports whether n more rules or chains may be added.
func (t *Table) room(n int) bool {
	if t.size+n > maxRules { // what was removed meanwhile is in it
		t.size = t.Len() + len(t.chains)
	}
	return t.size+n <= maxRules
}

// put inserts rules, each as number n, as iptables does: they end up in
// reverse order when inserted, and in order when appended.
func (t *Table) put(c *chain, n int, rules []Rule) error {
	if n < 1 || n > len(c.rules)+1 {
		return failed(textInsertion)
	}
	if !t.room(len(rules)) {
		return failed(textTooMany)
	}
	t.size += len(rules)
	c.rules = slices.Insert(c.rules, n-1, rules...)
	return nil
}

func (c *chain) replace(n int, r Rule) error {
	if n < 1 || n > len(c.rules) {
		return failed(textReplacement)
	}
	c.rules[n-1] = r
	return nil
}

func (c *chain) removeNumber(n int) error {
	if n < 1 || n > len(c.rules) {
		return failed(textDeletion)
	}
	c.rules = slices.Delete(c.rules, n-1, n)
	return nil
}

func index(rules []Rule, r *Rule) int {
	return slices.IndexFunc(rules, func(o Rule) bool { return o.Equal(r) })
}

func (c *chain) remove(rules []Rule) error {
	left := slices.Clone(c.rules)
	for i := range rules {
		at := index(left, &rules[i])
		if at < 0 {
			return failed(textNoRule)
		}
		left = slices.Delete(left, at, at+1)
	}
	c.rules = left
	return nil
}

func (c *chain) check(rules []Rule) error {
	for i := range rules {
		if index(c.rules, &rules[i]) < 0 {
			return failed(textNoRule)
		}
	}
	return nil
}
