package bridge

import (
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/ipvsnl"
)

// headLength is how much of an option's value is looked at.
const headLength = 128

// option answers one of IPVS's older socket options.
func (c *call) option() (value int64, errno unix.Errno, ours bool) {
	fd, err := c.descriptor(int(int32(c.args[0])))
	if err != nil {
		return 0, 0, false
	}
	defer unix.Close(fd)
	if domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || domain != unix.AF_INET {
		return 0, 0, false
	}
	r := ipvsnl.Request{Caller: ipvsnl.Caller{Admin: c.admin()}, Option: int(int32(c.args[2])),
		Get: c.number == unix.SYS_GETSOCKOPT, Length: int(int32(c.args[4]))}
	at, lengthAt := c.args[3], c.args[4]
	if r.Get {
		raw, err := c.read(lengthAt, 4)
		if err != nil {
			return 0, unix.EFAULT, true
		}
		r.Length = int(int32(order.Uint32(raw)))
	}
	if r.Length < 0 {
		return 0, unix.EINVAL, true
	}
	if r.Value, err = c.read(at, min(r.Length, headLength)); err != nil {
		return 0, unix.EFAULT, true
	}
	reply := c.ask(r)
	if reply.Errno != 0 || !r.Get {
		return 0, reply.Errno, true
	}
	if c.write(at, reply.Value) != nil || c.write(lengthAt, order.AppendUint32(nil, uint32(reply.Size))) != nil {
		return 0, unix.EFAULT, true
	}
	return 0, 0, true
}
