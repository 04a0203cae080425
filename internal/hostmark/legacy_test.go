package hostmark

import (
	"errors"
	"strings"
	"testing"
)

// A table of the legacy interface that is not laid out as it should be is refused, and what
// is wrong with it is said.
func TestLegacyDamaged(t *testing.T) {
	l := layoutOf(false)
	entry := func(target, next int, change func(e []byte)) []byte {
		e := make([]byte, max(next, l.first))
		native.PutUint16(e[l.targetOffset:], uint16(target))
		native.PutUint16(e[l.targetOffset+2:], uint16(next))
		if change != nil {
			change(e)
		}
		return e
	}
	size := func(at, n int) func([]byte) {
		return func(e []byte) { native.PutUint16(e[at:], uint16(n)) }
	}
	first := l.first
	for want, entries := range map[string][]byte{
		"entry at 0 of 10 bytes":                   make([]byte, 10),
		"entry at 0 has target 0, next 0":          entry(0, 0, nil),
		"match at 112 of the entry at 0":           entry(first+16, first+56, nil),
		"match at 112 of the entry at 0 has 31 by": entry(first+40, first+80, size(first, 31)),
		"target of the entry at 0 has 41 bytes":    entry(first, first+40, size(first, 41)),
		"verdict of the entry at 0 is cut off":     entry(first, first+40, size(first, 32)),
	} {
		if _, err := (&blob{entries: entries}).parse(); !errors.Is(err, errLegacy) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
