package hostmark

// fieldID is what of a packet a condition looks at.
type fieldID int8

const (
	protocol fieldID = iota // behind all extension headers
	source
	dest
	sourcePort
	destPort
	input               // the interface's name, padded with zeros
	tcpFlags            // of TCP alone
	fields              // how many a condition keeps
	mark        fieldID = iota
	index               // the input interface's number
	etherSource         // the frame's source
	tos                 // IPv4's type of service
	opaque              // anything that fwmark cannot compare
)

// width is a field's size in bits.
func (f fieldID) width(ipv6 bool) int {
	switch f {
	case protocol, tcpFlags, tos:
		return 8
	case etherSource:
		return 48
	case source, dest:
		if ipv6 {
			return 128
		}
		return 32
	case sourcePort, destPort:
		return 16
	case input:
		return 128
	}
	return 32
}

// test is one condition on a field: it is in one of the spans or, without
// spans, in the block; or, with not, it is not.
type test struct {
	block
	spans []span // tidy; not nil: the block does not count
	not   bool
}

// set is the test as spans. It is not known for masks that are no prefixes.
func (t test) set(width int) ([]span, bool) {
	list := t.spans
	if list == nil {
		s, ok := t.block.span(width)
		if !ok {
			return nil, false
		}
		list = []span{s}
	}
	if t.not {
		list = complement(list, width)
	}
	return list, true
}

// all is the set that passes every test.
func all(tests []test, width int) ([]span, bool) {
	set := []span{{number{}, ones(width)}}
	for _, t := range tests {
		s, ok := t.set(width)
		if !ok {
			return nil, false
		}
		set = intersect(set, s)
	}
	return set, true
}

// choices are blocks of which the field must be in one, or not be in the only
// one. No tests are no choices. never: the tests contradict each other.
func choices(tests []test, width int) (list []test, never, ok bool) {
	if len(tests) == 0 || len(tests) == 1 && tests[0].spans == nil {
		return tests, false, true
	}
	set, ok := all(tests, width)
	if !ok {
		return nil, false, false
	}
	if len(set) == 0 {
		return nil, true, true
	}
	rest := complement(set, width)
	if len(rest) == 0 {
		return nil, false, true
	}
	for _, s := range set {
		for _, b := range s.blocks(width) {
			list = append(list, test{block: b})
		}
		if len(list) > maxExpansion {
			break
		}
	}
	if len(rest) == 1 && len(list) > 1 {
		if b := rest[0].blocks(width); len(b) == 1 {
			return []test{{block: b[0], not: true}}, false, true
		}
	}
	return list, false, len(list) <= maxExpansion
}
