package fwmark

import (
	"slices"
	"strings"
)

const (
	prerouting = "PREROUTING"
	input      = "INPUT"
)

// builtin are mangle's own chains, in iptables' order. IPVS's packets pass the
// first two on their way (ip_vs_core.c, ip_vs_ops4: NF_INET_LOCAL_IN, behind
// mangle).
var builtin = []string{prerouting, input, "FORWARD", "OUTPUT", "POSTROUTING"}

// maxRules bounds a table, so that a list of addresses cannot fill memory.
const maxRules = 1 << 16

// chain is a chain with its rules.
type chain struct {
	name  string
	rules []Rule
}

// Table is the mangle table of one family, as far as it says what IPVS's
// packets are marked with: PREROUTING, then INPUT, and the chains that they
// jump to. FORWARD, OUTPUT and POSTROUTING are always empty. Every method
// either does all it was asked to or changes nothing. Rule numbers count from
// 1, in each chain. Not safe for concurrent use.
type Table struct {
	ipv6     bool
	chains   []chain // the built-in ones, then those of one's own by name
	services string  // the file that names ports
	size     int     // rules and chains, or more
	leftOut  []string
}

// NewTable makes an empty table, iptables' or ip6tables'.
func NewTable(ipv6 bool) *Table {
	t := &Table{ipv6: ipv6, services: servicesFile}
	for _, name := range builtin {
		t.chains = append(t.chains, chain{name: name})
	}
	return t
}

// Is6 reports that the table is ip6tables'.
func (t *Table) Is6() bool { return t.ipv6 }

// Len is the number of rules.
func (t *Table) Len() (n int) {
	for i := range t.chains {
		n += len(t.chains[i].rules)
	}
	return n
}

// Rules are the rules, chain by chain in their order, as a copy.
func (t *Table) Rules() []Rule {
	rules := make([]Rule, 0, t.Len())
	for i := range t.chains {
		for j := range t.chains[i].rules {
			rules = append(rules, t.chains[i].rules[j].clone())
		}
	}
	return rules
}

// SetRules puts rules in the place of all, each at the end of its chain. Chains
// that rules stand in or jump to are made.
func (t *Table) SetRules(rules []Rule) error {
	next := NewTable(t.ipv6)
	next.services = t.services
	for i := range rules {
		for _, name := range []string{rules[i].Chain, rules[i].To} {
			if name != "" && next.chain(name) == nil {
				if err := next.NewChain(name); err != nil {
					return err
				}
			}
		}
	}
	for i := range rules {
		if err := next.valid(&rules[i]); err != nil {
			return err
		}
		c := next.chain(rules[i].Chain)
		if err := next.put(c, len(c.rules)+1, []Rule{rules[i].clone()}); err != nil {
			return t.named(err)
		}
	}
	if err := next.sound('A', ""); err != nil {
		return t.named(err)
	}
	t.chains = next.chains
	return nil
}

// Clone is an independent copy.
func (t *Table) Clone() *Table {
	c := &Table{ipv6: t.ipv6, services: t.services, size: t.size, chains: make([]chain, len(t.chains))}
	for i := range t.chains {
		c.chains[i] = chain{name: t.chains[i].name, rules: make([]Rule, len(t.chains[i].rules))}
		for j := range t.chains[i].rules {
			c.chains[i].rules[j] = t.chains[i].rules[j].clone()
		}
	}
	return c
}

// Equal reports whether two tables have the same chains and rules.
func (t *Table) Equal(o *Table) bool {
	return t.ipv6 == o.ipv6 && slices.EqualFunc(t.chains, o.chains, func(a, b chain) bool {
		return a.name == b.name && slices.EqualFunc(a.rules, b.rules, func(a, b Rule) bool { return a.Equal(&b) })
	})
}

// Append adds a rule at the end of its chain, which must be there. It refuses
// a rule that iptables could not print and read again.
func (t *Table) Append(r Rule) error {
	if c := t.chain(r.Chain); c != nil {
		return t.Insert(len(c.rules)+1, r)
	}
	return t.Insert(1, r)
}

// Insert adds a rule as number n of its chain, from 1 to one more than it has.
func (t *Table) Insert(n int, r Rule) error {
	return t.edit(r.Chain, &r, func(c *chain) error { return t.put(c, n, []Rule{r.clone()}) })
}

// Replace puts a rule in the place of number n of its chain.
func (t *Table) Replace(n int, r Rule) error {
	return t.edit(r.Chain, &r, func(c *chain) error { return c.replace(n, r.clone()) })
}

// Delete removes the first rule that is Equal.
func (t *Table) Delete(r Rule) error {
	return t.edit(r.Chain, nil, func(c *chain) error { return c.remove([]Rule{r}) })
}

// DeleteNumber removes rule number n of a chain.
func (t *Table) DeleteNumber(name string, n int) error {
	return t.edit(name, nil, func(c *chain) error { return c.removeNumber(n) })
}

// edit lets f change a chain's rules, if rule, where it is not nil, is one.
func (t *Table) edit(name string, rule *Rule, f func(*chain) error) error {
	if rule != nil {
		if err := t.valid(rule); err != nil {
			return err
		}
	}
	c := t.chain(name)
	if c == nil {
		return t.named(failed(textNoChain))
	}
	was := c.rules
	c.rules = slices.Clone(was)
	err := f(c)
	if err == nil {
		err = t.sound('A', name)
	}
	if err != nil {
		c.rules = was
	}
	return t.named(err)
}

// Flush removes all rules. Chains stay.
func (t *Table) Flush() {
	for i := range t.chains {
		t.chains[i].rules = nil
	}
}

// Save is the table in the form of iptables-save -t mangle, which Restore and
// iptables-restore read.
func (t *Table) Save() string {
	var b strings.Builder
	b.WriteString("# Generated by ulvs\n*mangle\n")
	for i := range t.chains {
		policy := " ACCEPT"
		if i >= len(builtin) {
			policy = " -"
		}
		b.WriteString(":" + t.chains[i].name + policy + " [0:0]\n")
	}
	for i := range t.chains {
		for j := range t.chains[i].rules {
			b.WriteString(t.chains[i].rules[j].String() + "\n")
		}
	}
	b.WriteString("COMMIT\n# Completed by ulvs\n")
	return b.String()
}

// valid holds a rule made by a program to what a command could have made.
func (t *Table) valid(r *Rule) error {
	text := r.String()
	q := t.request()
	q.chains = nil
	err := q.parse(split(text))
	if err == nil && (len(q.rules) != 1 || !q.rules[0].Equal(r)) {
		err = wrong("no such rule can be given to iptables")
	}
	if e, ok := err.(*Error); ok {
		e.Rule = text
	}
	return t.named(err)
}

func (t *Table) request() *request {
	return &request{ipv6: t.ipv6, services: &services{path: t.services},
		chains: func(name string) bool { return t.chain(name) != nil }}
}

func (t *Table) program() string {
	if t.ipv6 {
		return "ip6tables"
	}
	return "iptables"
}

// named adds the program to an error.
func (t *Table) named(err error) error {
	if e, ok := err.(*Error); ok {
		e.Program = t.program()
		return e
	}
	return err
}
