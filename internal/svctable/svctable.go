// Package svctable finds the virtual service of a packet: by firewall mark,
// then by address and port, then by the two rules that the kernel has for
// whole addresses (net/netfilter/ipvs/ip_vs_ctl.c, ip_vs_service_find).
//
// What a service is, is its owner's matter: the type parameter S.
package svctable

import (
	"cmp"
	"encoding/binary"
	"iter"
	"net/netip"
	"slices"
)

// Key finds a service by address. It is comparable; an IPv4 address lies in the
// first four bytes.
type Key struct {
	Addr  [16]byte
	Port  uint16 // host order; 0 is every port
	Proto uint8
	IPv6  bool
}

// KeyOf is the key of an address, protocol and port.
func KeyOf(addr netip.Addr, proto uint8, port uint16) Key {
	k := Key{Port: port, Proto: proto, IPv6: addr.Is6()}
	copy(k.Addr[:], addr.AsSlice())
	return k
}

const (
	tcp     = 6
	ftpPort = 21
	// FTPDataPort is from where active FTP's data comes.
	FTPDataPort = 20
	// Unprivileged is the first port that needs no privilege
	// (net.ipv4.ip_unprivileged_port_start).
	Unprivileged = 1024
)

type item[S any] struct {
	service *S
	order   uint64 // when it was added
}

// markKey is a mark and a family in one word (Table.ip4 says why).
type markKey uint64

func markKeyOf(mark uint32, ipv6 bool) markKey {
	if ipv6 {
		return markKey(mark)<<1 | 1
	}
	return markKey(mark) << 1
}

func (k markKey) mark() uint32 { return uint32(k >> 1) }
func (k markKey) ipv6() bool   { return k&1 != 0 }

// Table is a set of services. Make it with New. It is not safe for concurrent
// use.
type Table[S any] struct {
	byAddr map[Key]item[S]
	byMark map[markKey]item[S]
	// ip4 is byAddr for IPv4, by keys of one word, which Go's maps find in a fifth of
	// the instructions: each new connection asks.
	ip4 map[uint64]*S
	// last is what LookupIPv4 found last by address, by its key of one word, and marked
	// what was found by mark: most packets in a row are for the same few services.
	last      *S
	lastKey   uint64
	marked    *S
	markedKey markKey

	ftp   int // services on port 21
	null  int // services on port 0
	added uint64
}

// New makes an empty table.
func New[S any]() *Table[S] {
	return &Table[S]{byAddr: map[Key]item[S]{}, byMark: map[markKey]item[S]{}, ip4: map[uint64]*S{}}
}

// Add puts in a service by address; AddMark by firewall mark and family. What
// had the key before is replaced.
func (t *Table[S]) Add(k Key, s *S) {
	t.lastKey = 0
	t.count(k, 1)
	t.added++
	t.byAddr[k] = item[S]{s, t.added}
	if !k.IPv6 {
		t.ip4[k.word()] = s
	}
}

// word is an IPv4 key in one word.
func (k *Key) word() uint64 { return word(binary.BigEndian.Uint32(k.Addr[:]), k.Port, k.Proto) }

func word(addr uint32, port uint16, proto uint8) uint64 {
	return uint64(addr)<<32 | uint64(port)<<16 | uint64(proto)
}

// AddMark puts in a service by firewall mark, which is not 0.
func (t *Table[S]) AddMark(mark uint32, ipv6 bool, s *S) {
	t.markedKey = 0
	t.added++
	t.byMark[markKeyOf(mark, ipv6)] = item[S]{s, t.added}
}

// Remove takes out a service by address, RemoveMark by firewall mark.
func (t *Table[S]) Remove(k Key) {
	t.lastKey = 0
	t.count(k, -1)
	delete(t.byAddr, k)
	if !k.IPv6 {
		delete(t.ip4, k.word())
	}
}

// RemoveMark takes out a service by firewall mark.
func (t *Table[S]) RemoveMark(mark uint32, ipv6 bool) {
	t.markedKey = 0
	delete(t.byMark, markKeyOf(mark, ipv6))
}

// count keeps the numbers that spare Lookup its last two steps.
func (t *Table[S]) count(k Key, n int) {
	switch k.Port {
	case ftpPort:
		t.ftp += n
	case 0:
		t.null += n
	}
}

// Find is the service with exactly this key, or nil; FindMark likewise.
func (t *Table[S]) Find(k Key) *S { return t.byAddr[k].service }

// FindMark is the service of exactly this mark, or nil.
func (t *Table[S]) FindMark(mark uint32, ipv6 bool) *S {
	return t.byMark[markKeyOf(mark, ipv6)].service
}

// Lookup is the service of a packet with this destination and mark, or nil. It
// allocates nothing.
func (t *Table[S]) Lookup(k Key, mark uint32) *S {
	if !k.IPv6 {
		return t.LookupIPv4(binary.BigEndian.Uint32(k.Addr[:]), k.Port, k.Proto, mark)
	}
	if s := t.lookupMark(mark, true); s != nil {
		return s
	}
	if s := t.byAddr[k].service; s != nil {
		return s
	}
	// FTP's data connections come to ports that nobody knows beforehand.
	if t.ftp > 0 && FTPData(k.Port, k.Proto) {
		k.Port = ftpPort
		if s := t.byAddr[k].service; s != nil {
			return s
		}
	}
	if t.null > 0 {
		k.Port = 0
		return t.byAddr[k].service
	}
	return nil
}

// lookupMark is the service of a mark, or nil, as it is of 0.
func (t *Table[S]) lookupMark(mark uint32, ipv6 bool) *S {
	if mark == 0 {
		return nil
	}
	key := markKeyOf(mark, ipv6)
	if key != t.markedKey {
		t.marked, t.markedKey = t.byMark[key].service, key
	}
	return t.marked
}

// LookupIPv4 is Lookup for an IPv4 address as a number.
func (t *Table[S]) LookupIPv4(addr uint32, port uint16, proto uint8, mark uint32) *S {
	if s := t.lookupMark(mark, false); s != nil {
		return s
	}
	key := word(addr, port, proto)
	if key == t.lastKey {
		return t.last
	}
	s := t.lookupIPv4(addr, port, proto)
	t.last, t.lastKey = s, key
	return s
}

func (t *Table[S]) lookupIPv4(addr uint32, port uint16, proto uint8) *S {
	if s := t.ip4[word(addr, port, proto)]; s != nil {
		return s
	}
	if t.ftp > 0 && FTPData(port, proto) {
		if s := t.ip4[word(addr, ftpPort, proto)]; s != nil {
			return s
		}
	}
	if t.null > 0 {
		return t.ip4[word(addr, 0, proto)]
	}
	return nil
}

// FTPData reports a port that a data connection of FTP may have.
func FTPData(port uint16, proto uint8) bool {
	return proto == tcp && (port == FTPDataPort || port >= Unprivileged)
}

// Len is how many services there are.
func (t *Table[S]) Len() int { return len(t.byAddr) + len(t.byMark) }

// Marks are the marks of a family's services, sorted.
func (t *Table[S]) Marks(ipv6 bool) []uint32 {
	var marks []uint32
	for k := range t.byMark {
		if k.ipv6() == ipv6 {
			marks = append(marks, k.mark())
		}
	}
	slices.Sort(marks)
	return marks
}

// Each yields the services in no order, without allocating.
func (t *Table[S]) Each(yield func(*S) bool) {
	for _, it := range t.byAddr {
		if !yield(it.service) {
			return
		}
	}
	for _, it := range t.byMark {
		if !yield(it.service) {
			return
		}
	}
}

// All are the services in an order like the kernel's, which lists those with an
// address before those with a mark, and each by a hash; but the part of the
// hash that changes with the network namespace is left out.
func (t *Table[S]) All() iter.Seq[*S] {
	type placed struct {
		item[S]
		bucket uint8
		mark   bool
	}
	list := make([]placed, 0, len(t.byAddr)+len(t.byMark))
	for k, it := range t.byAddr {
		list = append(list, placed{it, k.bucket(), false})
	}
	for k, it := range t.byMark {
		list = append(list, placed{it, uint8(k.mark()), true})
	}
	slices.SortFunc(list, func(a, b placed) int {
		if a.mark != b.mark {
			if a.mark {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(a.bucket, b.bucket), cmp.Compare(b.order, a.order))
	})
	return func(yield func(*S) bool) {
		for _, p := range list {
			if !yield(p.service) {
				return
			}
		}
	}
}

// bucket is the key's place in the kernel's table (ip_vs_svc_hashkey).
func (k Key) bucket() uint8 {
	h := k.Proto ^ uint8(k.Port>>8) ^ uint8(k.Port)
	for i := 3; i < len(k.Addr); i += 4 { // the last byte of each word is what counts
		h ^= k.Addr[i]
	}
	return h
}
