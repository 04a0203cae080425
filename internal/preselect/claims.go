package preselect

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math/bits"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/ulvs/ulvs/internal/shtab"
)

// Claim is what programs find a service by: the address (an IPv4 address first, then
// zeros), the port in network byte order, or 0 for every port, the protocol, and the
// family, 4 or 6. A service by a mark has that in the place of an address, and neither port nor
// protocol. Found is what they find: the service's number and its serial, or a list of rules
// (FirstList), beside which Else is the number and Serial the serial.
type Claim [20]byte

// Found is explained at Claim.
type Found struct{ Number, Serial, Else uint32 }

// FirstList is the number of the list of rules that is the first in memory. That of another one is
// as much more as it lies behind that, in bytes.
const FirstList = 1 << 30

// ServiceClaim is that of a service by address, of one port or with 0 of every one.
func ServiceClaim(addr netip.Addr, port uint16, protocol uint8) (k Claim) {
	copy(k[:], addr.AsSlice())
	k[16], k[17], k[18], k[19] = byte(port>>8), byte(port), protocol, familyOf(addr.Is6())
	return k
}

// AnyPacket stands for a protocol in the claim of all packets to an address that say nothing of ports:
// IANA keeps that number.
const AnyPacket = 255

// AddressClaim is that of what programs cannot read, to an address that has services.
func AddressClaim(addr netip.Addr) Claim { return ServiceClaim(addr, 0, AnyPacket) }

// FragmentClaim is that of fragments of a protocol to an address that has services of it.
func FragmentClaim(addr netip.Addr, protocol uint8) Claim {
	return ServiceClaim(addr, uint16(protocol), AnyPacket)
}

// MarkClaim is that of a service by mark.
func MarkClaim(mark uint32, ipv6 bool) (k Claim) {
	binary.NativeEndian.PutUint32(k[:], mark)
	k[19] = familyOf(ipv6)
	return k
}

func familyOf(ipv6 bool) byte {
	if ipv6 {
		return 6
	}
	return 4
}

// ByMark reports that of a service by mark, and EveryPort that of every port of an address.
func (k *Claim) ByMark() bool    { return k[18] == 0 }
func (k *Claim) EveryPort() bool { return k[16] == 0 && k[17] == 0 && !k.ByMark() }

// Claims are claims in memory that programs read: buckets of four, of which a claim has two to be
// in. A look-up compares the first word of the eight, and of IPv6 two more. (A BPF hash map takes
// six times as many instructions for it.) What a look-up finds was there at one moment of it, and
// a claim that is changed is found at all times.
//
// A place from which a claim has gone is free when no program looks at it any more: Reclaim.
// Make it with NewClaims. It is not safe for concurrent use, but beside programs.
type Claims struct {
	places []place
	taken  []bool // places that a claim has, or has left
	shift  int    // of a hash, so that a bucket's number is left
	at     map[Claim]uint32
	left   []uint32 // places that claims have left
	// moved are places of claims that have another one by now: a program that has looked there
	// before is to find them here.
	moved []uint32
}

// The layout of a claim's place, which programs compile in. The words of the key are those of
// Claim.Words; there is none where the first is 0.
const (
	ClaimSize      = 40
	OffClaimWord   = 0
	OffClaimHigh   = 8
	OffClaimLow    = 16
	OffClaimNumber = 24
	OffClaimSerial = 28
	OffClaimElse   = 32

	// ClaimsInBucket is how many places a bucket has.
	ClaimsInBucket = 4

	// ClaimFactor is by what the first word of a key is multiplied, and ClaimFactorHigh the sum of the
	// others. Their sum, to which its upper half is put by exclusive or, is multiplied by ClaimMix: the
	// highest bits are the number of the first bucket, and what is ClaimOther bits below is what the
	// second one differs by.
	ClaimFactor     = 0x9e3779b97f4a7c15
	ClaimMix        = 0xff51afd7ed558ccd
	ClaimFactorHigh = 0xc2b2ae3d27d4eb4f
	ClaimOther      = 16
)

type place struct {
	word, high, low uint64
	found           uint64
	other           uint64
}

// ClaimsSize returns how many bytes a table of so many buckets takes, which are a power of two.
func ClaimsSize(buckets int) int { return buckets * ClaimsInBucket * ClaimSize }

// NewClaims lays an empty table over a block of zeros, of ClaimsSize bytes, that starts on a cache
// line.
func NewClaims(block []byte, buckets int) (*Claims, error) {
	places, err := shtab.RecordsOver[place](block, buckets*ClaimsInBucket)
	if err != nil {
		return nil, fmt.Errorf("no memory for claims: %w", err)
	}
	return &Claims{places: places, taken: make([]bool, len(places)), shift: ClaimBucketShift(buckets),
		at: map[Claim]uint32{}}, nil
}

// ClaimBucketShift returns by how much a hash is shifted for the number of one of so many buckets.
func ClaimBucketShift(buckets int) int { return 65 - bits.Len(uint(buckets)) }

// Words are the key as programs compare it. The first one has the last four bytes of an IPv6
// address, or all of an IPv4 one, and never is 0; the other two have an IPv6 address, as it lies.
func (k *Claim) Words() (word, high, low uint64) {
	at := 0
	if k[19] == 6 {
		high, low, at = binary.NativeEndian.Uint64(k[:]), binary.NativeEndian.Uint64(k[8:]), 12
	}
	port := uint64(binary.NativeEndian.Uint16(k[16:]))
	word = uint64(binary.NativeEndian.Uint32(k[at:])) | port<<32 | uint64(k[18])<<48 | uint64(k[19])<<56
	return word, high, low
}

// buckets returns the first places of the two buckets in which a claim may be.
func (c *Claims) buckets(word, high, low uint64) [2]uint32 {
	h := word*ClaimFactor + (high+low)*ClaimFactorHigh
	h = (h ^ h>>32) * ClaimMix
	first := h >> c.shift
	second := first ^ h<<ClaimOther>>c.shift
	return [2]uint32{uint32(first * ClaimsInBucket), uint32(second * ClaimsInBucket)}
}

// Lookup finds a claim, as programs do.
func (c *Claims) Lookup(k Claim) (f Found, ok bool) {
	word, high, low := k.Words()
	for _, at := range c.buckets(word, high, low) {
		for i := range c.places[at:][:ClaimsInBucket] {
			p := &c.places[int(at)+i]
			if atomic.LoadUint64(&p.word) == word && p.high == high && p.low == low {
				return p.get(), true
			}
		}
	}
	return Found{}, false
}

// Len returns how many claims there are.
func (c *Claims) Len() int { return len(c.at) }

// All are the claims that there are, and what is found by them. The one that is yielded may be changed
// or deleted.
func (c *Claims) All() iter.Seq2[Claim, Found] {
	return func(yield func(Claim, Found) bool) {
		for k, i := range c.at {
			if !yield(k, c.places[i].get()) {
				return
			}
		}
	}
}

// Get returns what is found by a claim, if it is there.
func (c *Claims) Get(k Claim) (f Found, ok bool) {
	i, ok := c.at[k]
	if !ok {
		return f, false
	}
	return c.places[i].get(), true
}

// Put makes a claim lead to what is to be found by it, or changes that. False: both its buckets are
// full, which they may be no more after Reclaim: then it is to be called again.
func (c *Claims) Put(k Claim, f Found) bool {
	if i, ok := c.at[k]; ok {
		for _, was := range c.moved {
			if c.places[was].key() == k {
				c.places[was].set(f)
			}
		}
		c.places[i].set(f)
		return true
	}
	word, high, low := k.Words()
	most, in := 0, uint32(0)
	for _, at := range c.buckets(word, high, low) {
		free := 0
		for _, taken := range c.taken[at:][:ClaimsInBucket] {
			if !taken {
				free++
			}
		}
		if free > most {
			most, in = free, at
		}
	}
	if most == 0 {
		c.move(word, high, low)
		return false
	}
	for c.taken[in] {
		in++
	}
	c.fill(in, k, f)
	return true
}

// move has a claim of the buckets of a key, which are full, be in the other bucket that it has, if
// there is room. It is found all the time.
func (c *Claims) move(word, high, low uint64) {
	for _, at := range c.buckets(word, high, low) {
		for from := at; from < at+ClaimsInBucket; from++ {
			p := &c.places[from]
			if p.word == 0 || slices.Contains(c.moved, from) {
				continue
			}
			for _, to := range c.buckets(p.word, p.high, p.low) {
				for end := to + ClaimsInBucket; to < end; to++ {
					if c.taken[to] {
						continue
					}
					c.fill(to, p.key(), p.get())
					c.moved = append(c.moved, from)
					return
				}
			}
		}
	}
}

// key is the inverse of Words.
func (p *place) key() (k Claim) {
	binary.NativeEndian.PutUint32(k[:], uint32(p.word))
	if k[19] = byte(p.word >> 56); k[19] == 6 {
		binary.NativeEndian.PutUint64(k[:], p.high)
		binary.NativeEndian.PutUint64(k[8:], p.low)
	}
	binary.NativeEndian.PutUint16(k[16:], uint16(p.word>>32))
	k[18] = byte(p.word >> 48)
	return k
}

// get returns what is found there.
func (p *place) get() Found {
	found := atomic.LoadUint64(&p.found)
	return Found{uint32(found), uint32(found >> 32), uint32(atomic.LoadUint64(&p.other))}
}

// fill has a claim be in a place that is free.
func (c *Claims) fill(at uint32, k Claim, f Found) {
	p := &c.places[at]
	word, high, low := k.Words()
	c.taken[at], c.at[k] = true, at
	p.high, p.low = high, low
	p.set(f)
	atomic.StoreUint64(&p.word, word)
}

// set has f be found. Who reads a part of what was found before finds a service by address that the
// claim has, or had.
func (p *place) set(f Found) {
	atomic.StoreUint64(&p.other, uint64(f.Else))
	atomic.StoreUint64(&p.found, uint64(f.Number)|uint64(f.Serial)<<32)
}

// leave has no claim be in a place.
func (c *Claims) leave(at uint32) {
	atomic.StoreUint64(&c.places[at].word, 0)
	c.left = append(c.left, at)
}

// Delete takes a claim away, if there is one.
func (c *Claims) Delete(k Claim) {
	i, ok := c.at[k]
	if !ok {
		return
	}
	c.moved = slices.DeleteFunc(c.moved, func(was uint32) bool {
		same := c.places[was].key() == k
		if same {
			c.leave(was)
		}
		return same
	})
	c.leave(i)
	delete(c.at, k)
}

// Left returns how many places claims have left that Reclaim would free, or would when it is called
// again.
func (c *Claims) Left() int { return len(c.left) + len(c.moved) }

// Reclaim has places be free that claims have left. No program may run that ran when they did.
func (c *Claims) Reclaim() {
	for _, i := range c.left {
		c.taken[i] = false
	}
	c.left = c.left[:0]
	for _, i := range c.moved {
		c.leave(i)
	}
	c.moved = c.moved[:0]
}
