package hostmark

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// nftables is asked without a library: the known ones leave out expressions
// that they do not know, and a rule without one of its conditions is another
// rule.

// attribute is one netlink attribute.
type attribute struct {
	kind uint16
	data []byte
}

// attributes splits a run of netlink attributes. What is cut off is left out.
func attributes(b []byte) (list []attribute) {
	for len(b) >= 4 {
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			break
		}
		kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		list = append(list, attribute{kind, b[4:n]})
		b = b[min((n+3)&^3, len(b)):]
	}
	return list
}

// fieldsOf are attributes by their kind; the last of a kind counts.
func fieldsOf(b []byte) map[uint16][]byte {
	m := map[uint16][]byte{}
	for _, a := range attributes(b) {
		m[a.kind] = a.data
	}
	return m
}

// be32 is an attribute's number, 0 if it is missing.
func be32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// text is an attribute's string.
func text(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

func appendAttribute(b []byte, kind uint16, data []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(data)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, data...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func appendText(b []byte, kind uint16, s string) []byte {
	return appendAttribute(b, kind, append([]byte(s), 0))
}

// errChanged: the rules changed while they were read.
var errChanged = errors.New("the rules change all the time")

// errAbsent: the kernel has no such firewall.
var errAbsent = errors.New("the kernel has none")

// conn is a netlink socket to the kernel's firewall, in the network namespace
// of the thread that opened it.
type conn struct {
	fd  int
	seq uint32
	buf []byte
}

func dial() (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, errAbsent
	}
	if err != nil {
		return nil, os.NewSyscallError("netlink socket", err)
	}
	c := &conn{fd: fd, buf: make([]byte, 1<<17)}
	// The kernel answers at once; the limit only keeps a fault from hanging.
	limit := unix.NsecToTimeval((5 * time.Second).Nanoseconds())
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)); err != nil {
		c.close()
		return nil, os.NewSyscallError("netlink socket", err)
	}
	return c, nil
}

func (c *conn) close() { unix.Close(c.fd) }

// subscribe asks for a message at every change of nftables.
func (c *conn) subscribe() error {
	return os.NewSyscallError("subscribe to nftables' changes",
		unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.NFNLGRP_NFTABLES))
}

// drain reads the messages that are there and reports whether there were any.
func (c *conn) drain() (any bool, err error) {
	for {
		_, _, err := unix.Recvfrom(c.fd, c.buf, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return any, nil
		case errors.Is(err, unix.EINTR):
		case err != nil && !errors.Is(err, unix.ENOBUFS): // messages lost are news too
			return any, os.NewSyscallError("receive nftables' changes", err)
		default:
			any = true
		}
	}
}

// get asks nftables and hands out the attributes of every answer with the
// family that it is about.
func (c *conn) get(message uint16, dump bool, family uint8, request []byte, each func(family uint8, a map[uint16][]byte) error) error {
	c.seq++
	flags := uint16(unix.NLM_F_REQUEST | unix.NLM_F_ACK)
	if dump {
		flags = unix.NLM_F_REQUEST | unix.NLM_F_DUMP
	}
	b := binary.NativeEndian.AppendUint32(nil, uint32(20+len(request)))
	b = binary.NativeEndian.AppendUint16(b, unix.NFNL_SUBSYS_NFTABLES<<8|message)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, c.seq)
	b = append(b, 0, 0, 0, 0, family, 0, 0, 0)
	b = append(b, request...)
	if err := unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("ask nftables", err)
	}
	for {
		n, _, err := unix.Recvfrom(c.fd, c.buf, unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return os.NewSyscallError("receive nftables' answer", err)
		case n > len(c.buf):
			c.buf = make([]byte, n)
			return errChanged // once more, with more room
		}
		done, err := c.answers(c.buf[:n], each)
		if done || err != nil {
			return err
		}
	}
}

// answers reads one datagram of netlink messages.
func (c *conn) answers(b []byte, each func(uint8, map[uint16][]byte) error) (done bool, err error) {
	for len(b) >= 16 {
		n := int(binary.NativeEndian.Uint32(b))
		if n < 16 || n > len(b) {
			return true, errors.New("nftables' answer is cut off")
		}
		kind, flags := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:])
		body := b[16:n]
		if seq := binary.NativeEndian.Uint32(b[8:]); seq == c.seq {
			switch {
			case flags&unix.NLM_F_DUMP_INTR != 0:
				return true, errChanged
			case kind == unix.NLMSG_ERROR || kind == unix.NLMSG_DONE:
				return true, failure(body)
			case len(body) >= 4:
				if err := each(body[0], fieldsOf(body[4:])); err != nil {
					return true, err
				}
			}
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return false, nil
}

// failure is the error in the message that ends an answer.
func failure(body []byte) error {
	if len(body) < 4 {
		return nil
	}
	switch e := unix.Errno(-int32(binary.NativeEndian.Uint32(body))); e {
	case 0:
		return nil
	case unix.EPERM:
		return fmt.Errorf("nftables: %w", errPrivileges)
	case unix.EINTR, unix.EAGAIN, unix.ENOENT: // what was to be listed is gone again
		return errChanged
	default:
		return os.NewSyscallError("nftables", e)
	}
}
