package afpacket

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/ulvs/ulvs/dataplane"
)

// key is what a packet is compared with. It is small and has no pointers, as each claim
// goes through those of all services.
type key struct {
	addr  [16]byte // of which IPv4 takes four
	proto uint8
	port  uint16 // 0: not looked at
}

// keys are a set of them.
type keys map[key]struct{}

// without returns those that others do not have.
func (k keys) without(others keys) (list []key) {
	for key := range k {
		if _, there := others[key]; !there {
			list = append(list, key)
		}
	}
	return list
}

// bytes returns keys as registers hold them, in order. Fields of a concatenation are padded
// to four bytes.
func (f *ipFamily) bytes(list iter.Seq[key]) (out [][]byte) {
	for k := range list {
		b := append(k.addr[:f.size:f.size], k.proto, 0, 0, 0)
		if k.port != 0 {
			b = append(b, byte(k.port>>8), byte(k.port), 0, 0)
		}
		out = append(out, b)
	}
	slices.SortFunc(out, bytes.Compare)
	return out
}

// serviceKeys are the services of a family: those with one port and those with all ports,
// their fragments, and those with a range of ports.
type serviceKeys struct {
	ports, anyPort, fragments keys
	ranges                    []dataplane.Claim
}

func (f *ipFamily) keys(services []dataplane.Claim) serviceKeys {
	k := serviceKeys{ports: make(keys, len(services)), anyPort: keys{}, fragments: make(keys, len(services))}
	for _, s := range services {
		addr := s.Addr
		if addr.Is4() != f.is4 {
			continue
		}
		to := key{proto: s.Proto}
		if f.is4 {
			four := addr.As4()
			copy(to.addr[:], four[:])
		} else {
			to.addr = addr.As16()
		}
		switch {
		case s.Port == 0:
			k.anyPort[to] = struct{}{}
			continue
		case s.Last != 0:
			s.Service, s.Serial, s.Away = 0, 0, false // are nothing to nftables
			k.ranges = append(k.ranges, s)
		default:
			one := to
			one.port = s.Port
			k.ports[one] = struct{}{}
		}
		k.fragments[to] = struct{}{}
	}
	slices.SortFunc(k.ranges, func(a, b dataplane.Claim) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Port, b.Port))
	})
	return k
}

// byTarget returns the ports of keys by what else is in them.
func byTarget(ports keys) map[key][][]byte {
	by := map[key][][]byte{}
	for k := range ports {
		t := k
		t.port = 0
		by[t] = append(by[t], netOrder(k.port))
	}
	return by
}

// many is from how many keys on they lie in a set with a name, to which keys are added, and
// from which they are taken, one by one: a restore of thousands of services, one after the
// other, is not to write all rules anew for each.
const many = 64

// named is the keys of such sets, by kind and family.
type named map[string]keys

// plan is what the tables of an interface hold: the named sets, and all the rest.
type plan struct {
	sets named
	rest planRest
	made int // how many times tables were made anew
}

type planRest struct {
	services       [2]serviceKeys // without what is in named sets
	marks4, marks6 []uint32
	rules4, rules6 []dataplane.MarkRule
	whileLocal     bool
}

// kinds are the sets of a family that may have names.
var kinds = []string{"ports", "any", "fragments"}

func (k *serviceKeys) of(kind string) *keys {
	return map[string]*keys{"ports": &k.ports, "any": &k.anyPort, "fragments": &k.fragments}[kind]
}

func (f *ipFamily) name() string {
	if f.is4 {
		return "4"
	}
	return "6"
}

func planOf(c *dataplane.Claims) plan {
	p := plan{sets: named{}}
	for i, f := range []*ipFamily{&ipv4, &ipv6} {
		k := f.keys(c.Services)
		for _, kind := range kinds {
			if all := k.of(kind); len(*all) >= many {
				p.sets[kind+f.name()] = *all
				*all = nil
			}
		}
		p.rest.services[i] = k
	}
	p.rest.marks4, p.rest.marks6 = slices.Sorted(slices.Values(c.Marks4)), slices.Sorted(slices.Values(c.Marks6))
	p.rest.rules4, p.rest.rules6, p.rest.whileLocal = c.Rules4, c.Rules6, c.WhileLocal
	return p
}

// change is what comes to a named set and goes from it.
type change struct {
	name       string
	come, gone [][]byte
}

// same reports whether two plans make the same tables.
func (p *plan) same(to *plan) bool {
	return reflect.DeepEqual(p.sets, to.sets) && reflect.DeepEqual(p.rest, to.rest)
}

// changes returns what named sets have to gain and to lose for a plan to become another, or
// none if that takes more. What is said a second time is to be made anew.
func (p *plan) changes(to *plan) (list []change) {
	if len(p.sets) != len(to.sets) || !reflect.DeepEqual(p.rest, to.rest) {
		return nil
	}
	for _, f := range []*ipFamily{&ipv4, &ipv6} {
		for _, kind := range kinds {
			was, now := p.sets[kind+f.name()], to.sets[kind+f.name()]
			if (was == nil) != (now == nil) {
				return nil
			}
			c := change{name: setName(kind+f.name(), p.made)}
			c.come, c.gone = f.bytes(slices.Values(now.without(was))), f.bytes(slices.Values(was.without(now)))
			if len(c.come)+len(c.gone) > 0 {
				list = append(list, c)
			}
		}
	}
	return list
}

// setName is a named set's name in the tables that were made so many times.
func setName(kind string, made int) string { return fmt.Sprintf("%s-%d", kind, made) }

// update changes the named sets of an interface's table.
func update(conn *nftables.Conn, name string, changes []change) error {
	for _, c := range changes {
		set := &nftables.Set{Table: tableOf(name), Name: c.name}
		for part := range slices.Chunk(c.gone, setSize) {
			if err := conn.SetDeleteElements(set, elements(part)); err != nil {
				return err
			}
		}
		for part := range slices.Chunk(c.come, setSize) {
			if err := conn.SetAddElements(set, elements(part)); err != nil {
				return err
			}
		}
	}
	return nil
}

func elements(keys [][]byte) []nftables.SetElement {
	list := make([]nftables.SetElement, len(keys))
	for i, k := range keys {
		list[i].Key = k
	}
	return list
}

// lookupNamed makes a set with a name, and returns a look into it.
func (b *builder) lookupNamed(kind string, t nftables.SetDatatype, keys [][]byte, reg uint32) expr.Any {
	b.sets.last++
	set := &nftables.Set{Table: b.table, Name: setName(kind, b.times), ID: b.sets.last, KeyType: t}
	err := b.conn.AddSet(set, nil)
	for part := range slices.Chunk(keys, setSize) {
		err = errors.Join(err, b.conn.SetAddElements(set, elements(part)))
	}
	if err != nil && b.err == nil {
		b.err = fmt.Errorf("cannot make a set of %s: %w", kind, err)
	}
	return &expr.Lookup{SourceRegister: reg, SetName: set.Name, SetID: set.ID}
}

// removeNamed removes the named sets of an interface's table, whose rules are gone.
func removeNamed(conn *nftables.Conn, name string) {
	t := tableOf(name)
	sets, err := conn.GetSets(t)
	if err != nil {
		return // there is no table
	}
	for _, s := range sets {
		if !s.Anonymous {
			s.Table = t
			conn.DelSet(s)
		}
	}
}
