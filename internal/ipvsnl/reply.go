package ipvsnl

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
)

// largest bounds the messages of a listing in one datagram: those of the kernel have a page,
// without what it keeps of it for itself (NLMSG_GOODSIZE).
const largest = 3776

// send adds a datagram with one message.
func (a *answering) send(kind, flags uint16, sequence uint32, payload []byte) {
	a.out = append(a.out, a.append(nil, kind, flags, sequence, payload))
}

// append appends a message to the caller.
func (a *answering) append(b []byte, kind, flags uint16, sequence uint32, payload []byte) []byte {
	b = order.AppendUint32(b, uint32(unix.NLMSG_HDRLEN+len(payload)))
	b = order.AppendUint16(b, kind)
	b = order.AppendUint16(b, flags)
	b = order.AppendUint32(b, sequence)
	b = order.AppendUint32(b, a.from.Port)
	b = append(b, payload...)
	return append(b, make([]byte, align(len(b))-len(b))...)
}

// genl is a command with its attributes.
func genl(command uint8, attributes []byte) []byte {
	return append([]byte{command, version, 0, 0}, attributes...)
}

// acknowledge says how a request has ended (netlink_ack). An error has the request in it.
func (a *answering) acknowledge(r request, errno unix.Errno) {
	flags, quoted := uint16(unix.NLM_F_CAPPED), r.raw[:unix.NLMSG_HDRLEN]
	if errno != 0 && !a.from.CapAck {
		flags, quoted = 0, r.raw
	}
	code := order.AppendUint32(nil, uint32(-int32(errno)))
	a.send(unix.NLMSG_ERROR, flags, r.sequence, append(code, quoted...))
}

// list sends a listing, and its end (netlink_dump).
func (a *answering) list(r request, command uint8, all [][]byte) {
	var b []byte
	for _, attributes := range all {
		if len(b) > 0 && len(b)+unix.NLMSG_HDRLEN+genlHeader+len(attributes) > largest {
			a.out = append(a.out, b)
			b = nil
		}
		b = a.append(b, FamilyID, unix.NLM_F_MULTI, r.sequence, genl(command, attributes))
	}
	if len(b) > 0 {
		a.out = append(a.out, b)
	}
	a.send(unix.NLMSG_DONE, unix.NLM_F_MULTI, r.sequence, make([]byte, 4))
}

// errnoOf is what the kernel says where a verb says this.
func errnoOf(err error) unix.Errno {
	if err == nil {
		return 0
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	for _, e := range []struct {
		is    error
		errno unix.Errno
	}{
		{ulvs.ErrServiceExists, unix.EEXIST}, {ulvs.ErrNoService, unix.ESRCH},
		{ulvs.ErrDestinationExists, unix.EEXIST}, {ulvs.ErrNoDestination, unix.ENOENT},
		{ulvs.ErrNoScheduler, unix.ENOENT}, {ulvs.ErrInvalid, unix.EINVAL}, {ulvs.ErrRange, unix.ERANGE},
		{ulvs.ErrUnsupported, unix.EOPNOTSUPP}, {ulvs.ErrPermission, unix.EPERM},
	} {
		if errors.Is(err, e.is) {
			return e.errno
		}
	}
	return unix.EIO
}
