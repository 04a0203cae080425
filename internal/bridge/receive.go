package bridge

import (
	"golang.org/x/sys/unix"
)

// largestRead is more than any datagram of netlink has.
const largestRead = 256 << 10

// target is where a call wants what it receives.
type target struct {
	pieces     []piece
	flags      int
	name       uint64 // of the address; 0: not wanted
	nameMax    uint32
	nameLength uint64 // where the address's length is said
	header     uint64 // struct msghdr, or 0
	control    uint64
	controlMax uint64
}

// receiveFrom has a call receive an answer of ours, so that it seems to come from the kernel,
// and then gives the socket what it had no room for. What else comes, the kernel delivers,
// unless answers wait behind it.
func (c *call) receiveFrom(k kernelSocket) (value int64, errno unix.Errno, ours bool) {
	own := c.known(k.netns)
	if own == nil {
		return 0, 0, false
	}
	more := c.fill(k.cookie)
	_, _, _, from, err := unix.Recvmsg(k.fd, make([]byte, 1), nil, unix.MSG_PEEK|unix.MSG_DONTWAIT)
	if err != nil {
		return 0, 0, false
	}
	if sent, is := from.(*unix.SockaddrNetlink); !is || sent.Pid != own.port && !more {
		return 0, 0, false
	}
	to, err := c.target()
	if err != nil {
		return 0, 0, false
	}
	n, err := c.receiveInto(k.fd, to, own.port)
	switch {
	case err == unix.EAGAIN: // another thread was faster
		return 0, 0, false
	case err != nil:
		errno, _ := err.(unix.Errno)
		return 0, errno, true
	}
	c.fill(k.cookie)
	if c.number == unix.SYS_RECVMMSG {
		if err := c.write(to.header+msghdrSize, order.AppendUint32(nil, uint32(n))); err != nil {
			return 0, unix.EFAULT, true
		}
		return 1, 0, true
	}
	return int64(n), 0, true
}

// target is where the call's arguments say.
func (c *call) target() (to target, err error) {
	a := &c.args
	switch c.number {
	case unix.SYS_READ:
		to.pieces = []piece{{a[1], a[2]}}
		return to, nil
	case unix.SYS_READV:
		to.pieces, err = c.pieces(a[1], a[2])
		return to, err
	case unix.SYS_RECVFROM:
		to = target{pieces: []piece{{a[1], a[2]}}, flags: int(int32(a[3])), name: a[4], nameLength: a[5]}
		if to.name != 0 {
			raw, err := c.read(to.nameLength, 4)
			if err != nil {
				return to, err
			}
			to.nameMax = order.Uint32(raw)
		}
		return to, nil
	}
	h, err := c.header(a[1])
	if err != nil {
		return to, err
	}
	to = target{flags: int(int32(a[2])), header: a[1], name: h.name, nameMax: h.nameLength, control: h.control,
		controlMax: h.controlMax}
	if c.number == unix.SYS_RECVMMSG {
		to.flags = int(int32(a[3]))
	}
	to.pieces, err = c.pieces(h.pieces, h.count)
	return to, err
}

// receiveInto receives a datagram for the call, of which port is ours.
func (c *call) receiveInto(fd int, to target, port uint32) (int, error) {
	size := uint64(0)
	for _, p := range to.pieces {
		size = min(size+p.length, largestRead)
	}
	buf, control := make([]byte, size), make([]byte, min(to.controlMax, 4096))
	n, controlled, flags, from, err := unix.Recvmsg(fd, buf, control, to.flags|unix.MSG_DONTWAIT)
	if err != nil {
		return 0, err
	}
	rest := buf[:min(n, len(buf))]
	for _, p := range to.pieces {
		part := rest[:min(uint64(len(rest)), p.length)]
		if err := c.write(p.at, part); err != nil {
			return 0, unix.EFAULT
		}
		rest = rest[len(part):]
	}
	sent, _ := from.(*unix.SockaddrNetlink)
	if err := c.tell(to, sent, port, asKernels(control[:controlled]), flags); err != nil {
		return 0, unix.EFAULT
	}
	return n, nil
}

// tell writes what is told besides: the address, of which our port is the kernel's 0, control
// messages and flags.
func (c *call) tell(to target, from *unix.SockaddrNetlink, port uint32, control []byte, flags int) error {
	if to.name != 0 && from != nil {
		pid := from.Pid
		if pid == port {
			pid = 0
		}
		name := order.AppendUint16(nil, unix.AF_NETLINK)
		name = order.AppendUint32(order.AppendUint32(append(name, 0, 0), pid), from.Groups)
		if err := c.write(to.name, name[:min(to.nameMax, addressSize)]); err != nil {
			return err
		}
		if to.nameLength != 0 {
			return c.write(to.nameLength, order.AppendUint32(nil, addressSize))
		}
	}
	if to.header == 0 {
		return nil
	}
	const atNameLength, atControlLength = 8, 40
	if to.name != 0 {
		if err := c.write(to.header+atNameLength, order.AppendUint32(nil, addressSize)); err != nil {
			return err
		}
	}
	if err := c.write(to.control, control); err != nil {
		return err
	}
	tail := order.AppendUint32(order.AppendUint64(nil, uint64(len(control))), uint32(flags))
	return c.write(to.header+atControlLength, tail)
}

// asKernels has credentials in control messages be the kernel's: process 0.
func asKernels(control []byte) []byte {
	for b := control; len(b) >= unix.SizeofCmsghdr; {
		length := int(order.Uint64(b))
		if length < unix.SizeofCmsghdr || length > len(b) {
			break
		}
		level, typ := int32(order.Uint32(b[8:])), int32(order.Uint32(b[12:]))
		if level == unix.SOL_SOCKET && typ == unix.SCM_CREDENTIALS && length >= unix.SizeofCmsghdr+4 {
			order.PutUint32(b[unix.SizeofCmsghdr:], 0)
		}
		b = b[min((length+7)&^7, len(b)):]
	}
	return control
}
