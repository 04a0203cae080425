package hostmark

import (
	"bytes"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// lookup adds the condition that registers are (or are not) in a set. Of maps,
// verdicts are looked at one by one, whatever the key; other values are not
// known.
func (w *walker) lookup(a map[uint16][]byte) {
	name := text(a[unix.NFTA_LOOKUP_SET])
	set := w.sets(name)
	not := be32(a[unix.NFTA_LOOKUP_FLAGS])&unix.NFT_LOOKUP_F_INV != 0
	parts := w.key(a[unix.NFTA_LOOKUP_SREG], set)
	dreg, mapped := a[unix.NFTA_LOOKUP_DREG]
	if mapped {
		w.lookupMap(set, name, parts, dreg)
		return
	}
	if w.nft(joinTexts(parts)); not {
		w.nft("!=")
	}
	w.nft(set.text(name, parts, set.spans()))
	if set == nil || set.alone || slices.ContainsFunc(set.elements, func(e element) bool { return e.all }) {
		w.unknown("-m set ...")
		return
	}
	if len(parts) == 1 {
		w.inSet(parts[0], set, not)
		return
	}
	w.inTuples(parts, set, not)
}

// inSet is a lookup of one field.
func (w *walker) inSet(v *value, set *nftSet, not bool) {
	var spans []span
	for _, r := range set.spans() {
		if len(r[0]) != v.size {
			w.unknown("-m set ...")
			return
		}
		// Host order does no harm to single values.
		spans = append(spans, span{v.number(r[0]), v.number(r[1])})
		if _, ok := w.ordered(v, v.size); !ok && !bytes.Equal(r[0], r[1]) {
			w.unknown("-m set ...")
			return
		}
	}
	if v.known != nil {
		found := slices.ContainsFunc(set.spans(), func(r [2][]byte) bool {
			return bytes.Compare(r[0], v.known) <= 0 && bytes.Compare(v.known, r[1]) <= 0
		})
		w.never = w.never || found == not
		return
	}
	f, ok := v.whole(w.ipv6)
	if !ok {
		w.unknown("-m set ...")
		return
	}
	if spans = tidy(spans); len(spans) == 0 {
		w.never = w.never || !not
		return
	}
	w.add(f, test{spans: spans, not: not})
}

// inTuples is a lookup of a concatenation.
func (w *walker) inTuples(parts []*value, set *nftSet, not bool) {
	var list []tuple
	for _, r := range set.spans() {
		var t tuple
		possible := true
		at := 0
		for _, v := range parts {
			if at+v.size > len(r[0]) || len(r[1]) != len(r[0]) {
				w.unknown("-m set ...")
				return
			}
			from, to := r[0][at:at+v.size], r[1][at:at+v.size]
			at += (v.size + 3) &^ 3
			if v.known != nil {
				possible = possible && bytes.Compare(from, v.known) <= 0 && bytes.Compare(v.known, to) <= 0
				continue
			}
			f, ok := v.whole(w.ipv6)
			if _, ordered := w.ordered(v, v.size); !ok || !ordered && !bytes.Equal(from, to) {
				w.unknown("-m set ...")
				return
			}
			s := span{v.number(from), v.number(to)}
			t = append(t, bound{f, test{spans: []span{s}}})
		}
		if possible {
			list = append(list, t)
		}
	}
	switch {
	case len(list) == 0:
		w.never = w.never || !not
	case not:
		w.unknown("-m set ...")
	case len(list) > maxExpansion:
		w.unknown("-m set ...")
	default:
		w.tuples = append(w.tuples, list)
	}
}

func (w *walker) lookupMap(set *nftSet, name string, parts []*value, dreg []byte) {
	if be32(dreg) != 0 {
		w.unknown("-m map ...")
		w.load(dreg, unknownValue(64, joinTexts(parts)+" map "+set.name(name)))
		return
	}
	w.nft(joinTexts(parts), "vmap", set.name(name))
	w.unknown("-m map ...")
	var seen []verdict
	line := w.line
	if set == nil || set.alone {
		w.effect(effect{kind: marksUnknown, mask: ^uint32(0)})
		w.effect(effect{kind: accepts})
	} else {
		for _, e := range set.elements {
			if e.verdict != nil && !slices.Contains(seen, *e.verdict) {
				seen = append(seen, *e.verdict)
				w.verdict(e.verdict)
			}
		}
	}
	w.line = line
}

// key are the values that a lookup compares.
func (w *walker) key(sreg []byte, set *nftSet) (parts []*value) {
	length := 0
	if set != nil && len(set.elements) > 0 {
		length = len(set.elements[0].key)
	}
	at, ok := slotOf(be32(sreg))
	if !ok {
		return []*value{unknownValue(16, "?")}
	}
	for size := 0; ; {
		v := w.read(slotNumber(at))
		parts = append(parts, v)
		n := (v.size + 3) &^ 3
		if size, at = size+n, at+n/4; size >= length || at >= len(w.regs) {
			return parts
		}
	}
}

func slotNumber(at int) []byte { return []byte{0, 0, 0, byte(8 + at)} }

func joinTexts(parts []*value) string {
	texts := make([]string, len(parts))
	for i, v := range parts {
		texts[i] = v.text
	}
	return strings.Join(texts, " . ")
}

// spans are the ranges of keys in a set, first and last, as bytes.
func (s *nftSet) spans() (list [][2][]byte) {
	if s == nil {
		return nil
	}
	if s.flags&unix.NFT_SET_INTERVAL == 0 ||
		slices.ContainsFunc(s.elements, func(e element) bool { return e.last != nil }) {
		for _, e := range s.elements {
			last := e.last
			if last == nil {
				last = e.key
			}
			if e.key != nil {
				list = append(list, [2][]byte{e.key, last})
			}
		}
		return list
	}
	sorted := slices.Clone(s.elements)
	slices.SortStableFunc(sorted, func(a, b element) int {
		if c := bytes.Compare(a.key, b.key); c != 0 {
			return c
		}
		// An end is before a beginning.
		if a.end == b.end {
			return 0
		} else if a.end {
			return -1
		}
		return 1
	})
	var from []byte
	for _, e := range sorted {
		switch {
		case e.end && from != nil:
			list = append(list, [2][]byte{from, bigEndian(e.key).minus(one).bytes(min(len(e.key), 16))})
			from = nil
		case !e.end && e.key != nil:
			from = e.key
		}
	}
	if from != nil { // up to the highest
		list = append(list, [2][]byte{from, bytes.Repeat([]byte{0xff}, len(from))})
	}
	return list
}

// name is how nft prints where a set is named.
func (s *nftSet) name(name string) string {
	if s != nil && s.flags&unix.NFT_SET_ANONYMOUS != 0 {
		return "{ ... }"
	}
	return "@" + name
}

// text is how nft prints a set in a rule.
func (s *nftSet) text(name string, parts []*value, spans [][2][]byte) string {
	if s == nil || s.flags&unix.NFT_SET_ANONYMOUS == 0 {
		return "@" + name
	}
	slices.SortFunc(spans, func(a, b [2][]byte) int { return bytes.Compare(a[0], b[0]) })
	var list []string
	for _, r := range spans {
		var words []string
		at := 0
		for _, v := range parts {
			if at+v.size > len(r[0]) || len(r[0]) != len(r[1]) {
				return "{ ... }"
			}
			from, to := r[0][at:at+v.size], r[1][at:at+v.size]
			word := v.constant(from)
			if !bytes.Equal(from, to) {
				word += "-" + v.constant(to)
			}
			words = append(words, word)
			at += (v.size + 3) &^ 3
		}
		list = append(list, strings.Join(words, " . "))
	}
	return "{ " + strings.Join(list, ", ") + " }"
}
