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

// A rule that asks an ipset, which the tools of the golden files cannot make here, is listed
// by its text and not evaluated.
func TestLegacySet(t *testing.T) {
	l := layoutOf(false)
	const match, target = 32 + 8, 32 + 8
	e := make([]byte, l.first+match+target)
	native.PutUint16(e[l.targetOffset:], uint16(l.first+match))
	native.PutUint16(e[l.targetOffset+2:], uint16(len(e)))
	native.PutUint16(e[l.first:], match)
	copy(e[l.first+2:], "set")
	native.PutUint16(e[l.first+match:], target)
	copy(e[l.first+match+2:], "MARK")
	e[l.first+match+31] = 2 // its revision
	native.PutUint32(e[l.first+match+32:], 1)
	native.PutUint32(e[l.first+match+36:], 0xffffffff)
	policy := make([]byte, l.first+32+8) // ACCEPT
	native.PutUint16(policy[l.targetOffset:], uint16(l.first))
	native.PutUint16(policy[l.targetOffset+2:], uint16(len(policy)))
	native.PutUint16(policy[l.first:], 32+8)
	native.PutUint32(policy[l.first+32:], 0xfffffffe)
	b := &blob{entries: append(e, policy...), underrun: uint32(len(e))}
	wall, err := assemble(&ruleset{}, false, b, false)
	if err != nil {
		t.Fatal(err)
	}
	r := resolveBoth(wall, firewall{})
	if len(r.V4) != 0 || len(r.Unfollowed) != 1 || r.Unfollowed[0] != "-A PREROUTING -m set ... -j MARK --set-xmark 0x1/0xffffffff" {
		t.Errorf("followed %v, not followed %q", r.V4, r.Unfollowed)
	}
}
