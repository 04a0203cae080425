package bridge

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/internal/ipvsnl"
)

// order is this machine's byte order.
var order = binary.NativeEndian

// The sizes of what the kernel is handed (struct iovec, msghdr, mmsghdr, sockaddr_nl).
const (
	iovecSize   = 16
	msghdrSize  = 56
	mmsghdrSize = 64
	addressSize = 12
)

// most bounds how many pieces a message has (UIO_MAXIOV), and largest how many bytes one for IPVS
// has: no program sends nearly as much.
const (
	most    = 1024
	largest = 64 << 10
)

// send answers a datagram for IPVS. What is for anybody else is the kernel's to send.
func (c *call) send(k kernelSocket) (value int64, errno unix.Errno, ours bool) {
	if c.number == unix.SYS_SENDMMSG {
		return c.sendSeveral(k)
	}
	data, to, err := c.sent()
	if err != nil || !forKernel(to) || !ipvsnl.Ours(data) {
		return 0, 0, false
	}
	if err := c.exchange(k, data); err != nil {
		return 0, err.(unix.Errno), true
	}
	return int64(len(data)), 0, true
}

// sent is what a call sends, and to which address; nil is none.
func (c *call) sent() (data, to []byte, err error) {
	a := &c.args
	switch c.number {
	case unix.SYS_SENDTO:
		if data, err = c.buffer(a[1], a[2]); err == nil && a[4] != 0 {
			to, err = c.address(a[4], uint32(a[5]))
		}
		return data, to, err
	case unix.SYS_WRITE:
		data, err = c.buffer(a[1], a[2])
		return data, nil, err
	case unix.SYS_WRITEV:
		data, err = c.joined(a[1], a[2])
		return data, nil, err
	}
	return c.message(a[1])
}

func (c *call) buffer(at, length uint64) ([]byte, error) {
	if length > largest {
		return nil, unix.EMSGSIZE
	}
	return c.read(at, int(length))
}

// joined reads the pieces of a message.
func (c *call) joined(at, count uint64) (data []byte, err error) {
	pieces, err := c.pieces(at, count)
	for _, p := range pieces {
		b, err := c.buffer(p.at, p.length)
		if err != nil || len(data)+len(b) > largest {
			return nil, unix.EMSGSIZE
		}
		data = append(data, b...)
	}
	return data, err
}

// piece is memory of the program's (struct iovec).
type piece struct{ at, length uint64 }

func (c *call) pieces(at, count uint64) ([]piece, error) {
	if count > most {
		return nil, unix.EMSGSIZE
	}
	raw, err := c.read(at, int(count)*iovecSize)
	if err != nil {
		return nil, err
	}
	list := make([]piece, count)
	for i := range list {
		list[i] = piece{order.Uint64(raw[i*iovecSize:]), order.Uint64(raw[i*iovecSize+8:])}
	}
	return list, nil
}

// header is struct msghdr, as far as it is looked at.
type header struct {
	name       uint64
	nameLength uint32
	pieces     uint64
	count      uint64
	control    uint64
	controlMax uint64
}

func (c *call) header(at uint64) (h header, err error) {
	raw, err := c.read(at, msghdrSize)
	if err != nil {
		return h, err
	}
	return header{order.Uint64(raw), order.Uint32(raw[8:]), order.Uint64(raw[16:]), order.Uint64(raw[24:]),
		order.Uint64(raw[32:]), order.Uint64(raw[40:])}, nil
}

// message is what a header says is to be sent.
func (c *call) message(at uint64) (data, to []byte, err error) {
	h, err := c.header(at)
	if err != nil {
		return nil, nil, err
	}
	if data, err = c.joined(h.pieces, h.count); err == nil && h.name != 0 {
		to, err = c.address(h.name, h.nameLength)
	}
	return data, to, err
}

func (c *call) address(at uint64, length uint32) ([]byte, error) {
	if length < addressSize || length > 128 {
		return nil, unix.EINVAL
	}
	return c.read(at, addressSize)
}

// forKernel reports whether an address, or none, is the kernel's: it has port 0, and no groups.
func forKernel(to []byte) bool {
	return to == nil || order.Uint16(to) == unix.AF_NETLINK && order.Uint32(to[4:]) == 0 && order.Uint32(to[8:]) == 0
}

// sendSeveral sends some datagrams, those that are not for IPVS as the program would.
func (c *call) sendSeveral(k kernelSocket) (value int64, errno unix.Errno, ours bool) {
	count := min(c.args[2], most)
	for i := range count {
		at := c.args[1] + i*mmsghdrSize
		data, to, err := c.message(at)
		switch {
		case err != nil:
		case forKernel(to) && ipvsnl.Ours(data):
			ours, err = true, c.exchange(k, data)
		case !ours:
			return 0, 0, false // they all are the kernel's
		default:
			err = unix.Sendto(k.fd, data, int(c.args[3])|unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, addressOf(to))
		}
		if err == nil {
			err = c.write(at+msghdrSize, order.AppendUint32(nil, uint32(len(data))))
		}
		if err != nil {
			if i > 0 {
				return int64(i), 0, ours
			}
			errno, _ := err.(unix.Errno)
			return 0, errno, ours
		}
	}
	return int64(count), 0, ours
}

func addressOf(to []byte) unix.Sockaddr {
	if to == nil {
		return &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	}
	return &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: order.Uint32(to[4:]), Groups: order.Uint32(to[8:])}
}

// exchange has the daemon answer a datagram, and sends the answers. They are there when it
// returns, as those of a kernel are when a program has sent. The error is an errno.
func (c *call) exchange(k kernelSocket, data []byte) error {
	if err := k.ready(); err != nil || c.full(k.cookie) {
		return unix.ENOBUFS
	}
	netns, err := namespaceOf(k.fd)
	if err != nil {
		return unix.ENOBUFS
	}
	defer unix.Close(netns)
	reply := c.ask(ipvsnl.Request{Datagram: data,
		Caller: ipvsnl.Caller{Port: k.port, Admin: c.admin(), CapAck: k.capAck}})
	if err := c.deliver(k, netns, reply.Datagrams); err != nil {
		return unix.ENOBUFS
	}
	return nil
}
