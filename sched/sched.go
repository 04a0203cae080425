// Package sched chooses real servers for new connections, as the schedulers of
// kernel IPVS do (net/netfilter/ipvs/ip_vs_*.c): the same choice for the same
// packet.
//
// One file is one scheduler. A scheduler sees the destinations of one service
// in the kernel's list order, which is newest first.
package sched

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Flags are a service's scheduler flags, ipvsadm's -b. What the three bits
// mean depends on the scheduler: flag-1 is sh-fallback and mh-fallback, flag-2
// sh-port and mh-port (include/uapi/linux/ip_vs.h, IP_VS_SVC_F_SCHED*).
type Flags uint8

// The scheduler flags.
const (
	Flag1 Flags = 1 << iota
	Flag2
	Flag3
)

// Default is the scheduler of a service that names none (ipvsadm's DEF_SCHED).
const Default = "wlc"

// Request is the packet that wants a destination, as far as any scheduler
// looks at it. Addresses are in network byte order, an IPv4 address in the
// first four bytes.
type Request struct {
	Client, Virtual         [16]byte
	ClientPort, VirtualPort uint16 // host order
	Proto                   uint8
	IPv6                    bool
	// Now is CLOCK_MONOTONIC, for schedulers that forget.
	Now time.Duration
}

// Scheduler chooses destinations for one service. It is not safe for
// concurrent use: the director holds one lock around all its methods.
type Scheduler interface {
	// Schedule returns the destination of a new connection, or nil when none
	// is usable. It allocates nothing.
	Schedule(*Request) *Dest
	// Added, Removed and Updated tell of one destination that has come, gone,
	// or got another weight or thresholds. dests is the whole list after the
	// change, newest first; the scheduler may keep it, and does not change it.
	Added(dests []*Dest, d *Dest)
	Removed(dests []*Dest, d *Dest)
	Updated(dests []*Dest, d *Dest)
}

// Flagged is a Scheduler to which flags mean something. SetFlags changes them
// and keeps what the scheduler knows (ip_vs_ctl.c, ip_vs_edit_service). To
// other schedulers new flags are nothing new.
type Flagged interface {
	SetFlags(Flags)
}

// Positioned is a Scheduler that takes destinations in turn: rr, wrr. Position is where it
// stands: the destination that it chose last, nil before the first, and what it
// needs besides. SetPosition has it go on from there.
type Positioned interface {
	Position() (last *Dest, current int32)
	SetPosition(last *Dest, current int32)
}

// Hashing is a Scheduler that chooses by a hash of a packet alone, through a table: sh, dh, mh.
type Hashing interface {
	// Hashed returns how, and the destinations by their buckets, of which some may be nil or
	// unusable. They are the scheduler's own, and stay until it hears of a change.
	Hashed() (Hash, []*Dest)
}

// Hash is how a Hashing scheduler finds a packet's bucket: by the 32-bit words of one of its
// addresses, by exclusive or, and maybe its client's port, which is added.
type Hash struct {
	// Virtual is of the virtual address, and not of the client's. Port adds the client's port.
	Virtual, Port bool
	// Sip is the remainder of SipHash-1-3, keyed with MHKey twice, by the number of buckets.
	// Without it there are 256 buckets, and it is the upper eight bits of the product with Golden.
	Sip bool
}

// Comparing is a Scheduler that chooses by the weights of destinations and the connections that
// they have: lc, wlc, sed, nq, fo, ovf.
type Comparing interface {
	// Compared returns how, and the destinations in their order, of which some may be unusable.
	// They are the scheduler's own, and stay until it hears of a change.
	Compared() (Comparison, []*Dest)
}

// Comparison is what a Comparing scheduler chooses of the destinations that are usable: the first
// of those that have least or most of something.
type Comparison uint8

// Least of 256 times the active connections and the inactive ones, for the weight or whatever
// it is; least of the active ones and one more for the weight, or before that the first without
// any; most weight, whatever connections there are, or of those with no more active ones than
// weight.
const (
	LeastForWeight Comparison = iota
	Least
	SoonestForWeight
	IdleOrSoonest
	Heaviest
	HeaviestUnfilled
)

// Constants of Hash.
const (
	MHKey  = mhKey1
	Golden = 0x61c88647
)

// Forgetful is a Scheduler that forgets what was not used for a time: lblc,
// lblcr. SetExpiration is sysctl net.ipv4.vs.lblc_expiration, or
// lblcr_expiration, which goes for what is remembered already too.
type Forgetful interface {
	SetExpiration(time.Duration)
}

// Closer is a Scheduler that holds destinations (Dest.Held) beyond their place
// in the list. Close lets go of them; the scheduler is not used after it.
type Closer interface {
	Close()
}

// ErrUnknown says that no scheduler has the name.
var ErrUnknown = errors.New("unknown scheduler")

// ErrName says that a scheduler cannot have a name.
var ErrName = errors.New("a scheduler cannot have this name")

var (
	mu     sync.RWMutex
	makers = map[string]func([]*Dest, Flags) Scheduler{
		"rr":    newRR,
		"wrr":   newWRR,
		"lc":    newLC,
		"wlc":   newWLC,
		"lblc":  newLBLC,
		"lblcr": newLBLCR,
		"dh":    newDH,
		"sh":    newSH,
		"sed":   newSED,
		"nq":    newNQ,
		"fo":    newFO,
		"ovf":   newOVF,
		"mh":    newMH,
		"twos":  newTwos,
		"none":  newNone,
	}
)

// MaxName is how many bytes the name of a scheduler has at most
// (include/uapi/linux/ip_vs.h, IP_VS_SCHEDNAME_MAXLEN, with its NUL).
const MaxName = 15

// Register adds a scheduler of one's own: New gives it to services that are added with
// the name from now on. make is called once a service, with its destinations so far,
// newest first; its Schedule must not block or allocate, and is called under a lock. The
// error wraps ErrName: the name is taken, empty, or longer than MaxName. Safe for
// concurrent use.
func Register(name string, make func(dests []*Dest, flags Flags) Scheduler) error {
	mu.Lock()
	defer mu.Unlock()
	switch {
	case name == "" || len(name) > MaxName:
		return fmt.Errorf("%w: %q: give 1 to %d bytes", ErrName, name, MaxName)
	case makers[name] != nil:
		return fmt.Errorf("%w: %q is registered already", ErrName, name)
	}
	makers[name] = make
	return nil
}

// New makes the scheduler called name, as ipvsadm -s spells it, for a service
// with these destinations. The error wraps ErrUnknown.
func New(name string, dests []*Dest, flags Flags) (Scheduler, error) {
	mu.RLock()
	mk := makers[name]
	mu.RUnlock()
	if mk == nil {
		return nil, fmt.Errorf("%w %q: one of %s", ErrUnknown, name, strings.Join(Names(), ", "))
	}
	return mk(dests, flags), nil
}

// Known reports whether New knows the name.
func Known(name string) bool {
	mu.RLock()
	defer mu.RUnlock()
	return makers[name] != nil
}

// Names are the names that New knows, sorted.
func Names() []string {
	mu.RLock()
	defer mu.RUnlock()
	names := make([]string, 0, len(makers))
	for n := range makers {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
