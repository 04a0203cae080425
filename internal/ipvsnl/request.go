package ipvsnl

import (
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
)

// Request is what a program asked of the kernel, in one system call. It is a datagram, or an
// option where Option is not 0.
type Request struct {
	Caller
	Datagram []byte `json:"datagram,omitempty"`
	// Option is of setsockopt, or with Get of getsockopt. Value is what the caller's memory
	// holds, of which 128 bytes are enough, and Length how much that is.
	Option int    `json:"option,omitempty"`
	Get    bool   `json:"get,omitempty"`
	Value  []byte `json:"value,omitempty"`
	Length int    `json:"length,omitempty"`
}

// Reply is what the kernel would have answered.
type Reply struct {
	// Datagrams are to be sent to the caller, in their order.
	Datagrams [][]byte `json:"datagrams,omitempty"`
	// Errno, of an option, is 0 or an errno; Value is written over the caller's memory from its
	// beginning on, and Size is the length that the caller is told.
	Errno unix.Errno `json:"errno,omitempty"`
	Value []byte     `json:"value,omitempty"`
	Size  int        `json:"size,omitempty"`
}

// Do carries a request out: Answer, SetOption or GetOption.
func Do(to ulvs.Control, r Request) (reply Reply) {
	switch {
	case r.Option == 0:
		reply.Datagrams = Answer(to, r.Caller, r.Datagram)
	case r.Get:
		reply.Value, reply.Size, reply.Errno = GetOption(to, r.Admin, r.Option, r.Value, r.Length)
	default:
		reply.Errno = SetOption(to, r.Admin, r.Option, r.Value, r.Length)
	}
	return reply
}

// Refuse answers a request as a kernel does without IPVS, or with another errno for each message
// of a datagram. Such a kernel has no family IPVS, ENOENT, and no options, ENOPROTOOPT.
func Refuse(r Request, errno unix.Errno) (reply Reply) {
	if r.Option != 0 {
		if errno == unix.ENOENT {
			errno = unix.ENOPROTOOPT
		}
		return Reply{Errno: errno}
	}
	a := &answering{from: r.Caller}
	for b := r.Datagram; len(b) >= unix.NLMSG_HDRLEN; {
		one := requestOf(b)
		if one.length < unix.NLMSG_HDRLEN || one.length > len(b) {
			break
		}
		one.raw = b[:one.length]
		if one.flags&unix.NLM_F_REQUEST != 0 && one.kind >= unix.NLMSG_MIN_TYPE {
			a.acknowledge(one, errno)
		}
		b = b[min(align(one.length), len(b)):]
	}
	reply.Datagrams = a.out
	return reply
}
