package hostmark

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// chainKey names a chain of nftables.
type chainKey struct {
	family      uint8
	table, name string
}

// nftChain is a chain of nftables with its rules.
type nftChain struct {
	chainKey
	kind     string // of a base chain: filter, nat, route; else ""
	hook     uint32
	priority int32
	drop     bool // by policy
	age      [2]uint64
	rules    []nftRule
}

// nftRule is a rule as nftables keeps it.
type nftRule struct {
	handle      uint64
	expressions []expression
	comment     string
}

// expression is one step of an nftRule.
type expression struct {
	name string
	data map[uint16][]byte
}

// nftSet is a set or map of nftables. alone: it changes by itself, or its
// elements do more than be in it.
type nftSet struct {
	flags    uint32
	alone    bool
	elements []element
}

type element struct {
	key, last []byte // last: of a range, in sets of concatenations
	end       bool   // key is the first one behind a range
	all       bool   // the element for all others
	verdict   *verdict
}

type verdict struct {
	code  int32
	chain string
}

// ruleset is what of nftables has to do with the way in.
type ruleset struct {
	chains map[chainKey]*nftChain
	sets   map[chainKey]*nftSet
	// interfaces are those that ulvs takes packets from.
	interfaces interfaces
}

// readRuleset reads nftables as it was at one moment.
func readRuleset(c *conn) (r *ruleset, err error) {
	for range 20 {
		before, err := c.generation()
		if err != nil {
			return nil, err
		}
		r := &ruleset{chains: map[chainKey]*nftChain{}, sets: map[chainKey]*nftSet{}}
		if err := r.read(c); err != nil && !errors.Is(err, errChanged) {
			return nil, err
		} else if after, same := c.generation(); err == nil && same == nil && after == before {
			return r, nil
		}
	}
	return nil, errChanged
}

// generation is a number that changes with every change of nftables.
func (c *conn) generation() (id uint32, err error) {
	err = c.get(unix.NFT_MSG_GETGEN, false, 0, nil, func(_ uint8, a map[uint16][]byte) error {
		id = be32(a[unix.NFTA_GEN_ID])
		return nil
	})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		err = errAbsent
	}
	return id, err
}

const dormant = 1 // NFT_TABLE_F_DORMANT

func (r *ruleset) read(c *conn) error {
	type tableKey struct {
		family uint8
		name   string
	}
	tables := map[tableKey]uint64{}
	err := c.get(unix.NFT_MSG_GETTABLE, true, 0, nil, func(family uint8, a map[uint16][]byte) error {
		if ours := family == unix.NFPROTO_IPV4 || family == unix.NFPROTO_IPV6 ||
			family == unix.NFPROTO_INET; ours && be32(a[unix.NFTA_TABLE_FLAGS])&dormant == 0 {
			tables[tableKey{family, text(a[unix.NFTA_TABLE_NAME])}] = be64(a[4]) // NFTA_TABLE_HANDLE
		}
		return nil
	})
	if err != nil {
		return err
	}
	needed := map[tableKey]bool{}
	err = c.get(unix.NFT_MSG_GETCHAIN, true, 0, nil, func(family uint8, a map[uint16][]byte) error {
		ch := &nftChain{chainKey: chainKey{family, text(a[unix.NFTA_CHAIN_TABLE]), text(a[unix.NFTA_CHAIN_NAME])}}
		t := tableKey{family, ch.table}
		age, known := tables[t]
		if !known {
			return nil
		}
		if h, base := a[unix.NFTA_CHAIN_HOOK]; base {
			hook := fieldsOf(h)
			ch.kind = text(a[unix.NFTA_CHAIN_TYPE])
			ch.hook, ch.priority = be32(hook[unix.NFTA_HOOK_HOOKNUM]), int32(be32(hook[unix.NFTA_HOOK_PRIORITY]))
			policy, given := a[unix.NFTA_CHAIN_POLICY]
			ch.drop = given && be32(policy) == nfDrop
			if ch.hook == unix.NF_INET_PRE_ROUTING || ch.hook == unix.NF_INET_LOCAL_IN {
				needed[t] = true
			}
		}
		ch.age = [2]uint64{age, be64(a[unix.NFTA_CHAIN_HANDLE])}
		r.chains[ch.chainKey] = ch
		return nil
	})
	if err != nil {
		return err
	}
	for t := range needed {
		request := appendText(nil, unix.NFTA_RULE_TABLE, t.name)
		err := c.get(unix.NFT_MSG_GETRULE, true, t.family, request, func(family uint8, a map[uint16][]byte) error {
			// Older kernels list other tables too.
			ch := r.chains[chainKey{family, text(a[unix.NFTA_RULE_TABLE]), text(a[unix.NFTA_RULE_CHAIN])}]
			if ch != nil && ch.table == t.name && family == t.family {
				ch.rules = append(ch.rules, decodeRule(a))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return r.readSets(c)
}

func be64(b []byte) uint64 {
	if len(b) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// decodeRule copies a rule out of the attributes of its message.
func decodeRule(a map[uint16][]byte) nftRule {
	rule := nftRule{handle: be64(a[unix.NFTA_RULE_HANDLE])}
	rule.expressions = decodeExpressions(bytes.Clone(a[unix.NFTA_RULE_EXPRESSIONS]))
	// What nft keeps for itself: kind, length, value; kind 0 is the comment.
	for u := a[unix.NFTA_RULE_USERDATA]; len(u) >= 2 && 2+int(u[1]) <= len(u); u = u[2+int(u[1]):] {
		if u[0] == 0 {
			rule.comment = text(u[2 : 2+int(u[1])])
		}
	}
	return rule
}

func decodeExpressions(b []byte) (list []expression) {
	for _, item := range attributes(b) {
		e := fieldsOf(item.data)
		list = append(list, expression{text(e[unix.NFTA_EXPR_NAME]), fieldsOf(e[unix.NFTA_EXPR_DATA])})
	}
	return list
}

// readSets reads the sets that rules refer to.
func (r *ruleset) readSets(c *conn) error {
	for _, ch := range r.chains {
		for _, rule := range ch.rules {
			for _, e := range rule.expressions {
				if e.name == "lookup" {
					r.sets[chainKey{ch.family, ch.table, text(e.data[unix.NFTA_LOOKUP_SET])}] = nil
				}
			}
		}
	}
	for key := range r.sets {
		set := &nftSet{}
		request := appendText(appendText(nil, unix.NFTA_SET_TABLE, key.table), unix.NFTA_SET_NAME, key.name)
		err := c.get(unix.NFT_MSG_GETSET, false, key.family, request, func(_ uint8, a map[uint16][]byte) error {
			const expr, exprs = 0x11, 0x12 // NFTA_SET_EXPR, NFTA_SET_EXPRESSIONS
			set.flags = be32(a[unix.NFTA_SET_FLAGS])
			set.alone = set.flags&(unix.NFT_SET_TIMEOUT|unix.NFT_SET_EVAL|unix.NFT_SET_OBJECT) != 0 ||
				a[expr] != nil || a[exprs] != nil
			return nil
		})
		if err != nil {
			return err
		}
		r.sets[key] = set
		if set.alone {
			continue
		}
		request = appendText(appendText(nil, unix.NFTA_SET_ELEM_LIST_TABLE, key.table), unix.NFTA_SET_ELEM_LIST_SET,
			key.name)
		err = c.get(unix.NFT_MSG_GETSETELEM, true, key.family, request, func(_ uint8, a map[uint16][]byte) error {
			for _, item := range attributes(a[unix.NFTA_SET_ELEM_LIST_ELEMENTS]) {
				set.add(fieldsOf(item.data))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *nftSet) add(a map[uint16][]byte) {
	const keyEnd, exprs, catchAll = 10, 11, 2 // NFTA_SET_ELEM_KEY_END, _EXPRESSIONS, NFT_SET_ELEM_CATCHALL
	if a[unix.NFTA_SET_ELEM_EXPR] != nil || a[exprs] != nil || a[unix.NFTA_SET_ELEM_TIMEOUT] != nil {
		s.alone = true
	}
	if len(s.elements) > 2*maxExpansion { // too many to follow anyway
		s.alone = true
		return
	}
	flags := be32(a[unix.NFTA_SET_ELEM_FLAGS])
	e := element{
		key:  bytes.Clone(fieldsOf(a[unix.NFTA_SET_ELEM_KEY])[unix.NFTA_DATA_VALUE]),
		last: bytes.Clone(fieldsOf(a[keyEnd])[unix.NFTA_DATA_VALUE]),
		end:  flags&unix.NFT_SET_ELEM_INTERVAL_END != 0,
		all:  flags&catchAll != 0,
	}
	if v, ok := fieldsOf(a[unix.NFTA_SET_ELEM_DATA])[unix.NFTA_DATA_VERDICT]; ok {
		e.verdict = decodeVerdict(v)
	}
	s.elements = append(s.elements, e)
}

func decodeVerdict(b []byte) *verdict {
	a := fieldsOf(b)
	return &verdict{int32(be32(a[unix.NFTA_VERDICT_CODE])), text(a[unix.NFTA_VERDICT_CHAIN])}
}

// hooked are the base chains that packets of a family pass at a hook, in order.
func (r *ruleset) hooked(ipv6 bool, hook uint32) (list []*nftChain) {
	for _, ch := range r.chains {
		mine := ch.family == unix.NFPROTO_INET || (ch.family == unix.NFPROTO_IPV6) == ipv6
		if mine && ch.kind != "" && ch.hook == hook {
			list = append(list, ch)
		}
	}
	// Of one priority, the chain that was added last comes first
	// (net/netfilter/core.c, nf_hook_entries_grow). Age is a guess across
	// tables, where nothing better is told.
	slices.SortFunc(list, func(a, b *nftChain) int {
		return cmp.Or(cmp.Compare(a.priority, b.priority), slices.Compare(b.age[:], a.age[:]),
			cmp.Compare(a.family, b.family), strings.Compare(a.table+" "+a.name, b.table+" "+b.name))
	})
	return list
}
