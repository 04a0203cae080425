package hostmark

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
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
type conn struct{ *netlink.Conn }

// patience is how long an answer may take. The kernel answers at once; the limit only keeps
// a fault from hanging.
const patience = 5 * time.Second

func dial() (*conn, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, errAbsent
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open a netlink socket: %w", err)
	}
	return &conn{c}, nil
}

func (c *conn) close() { _ = c.Close() }

// subscribe asks for a message at every change of nftables.
func (c *conn) subscribe() error {
	if err := c.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("cannot subscribe to nftables' changes: %w", err)
	}
	return nil
}

// follow says in news that nftables has changed, until the socket is closed or fails,
// which ends news; the error is in failed then.
func (c *conn) follow(news chan<- struct{}, failed chan<- error) {
	defer close(news)
	for {
		// Messages that were lost are news too.
		if _, err := c.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
			failed <- fmt.Errorf("cannot receive nftables' changes: %w", err)
			return
		}
		select {
		case news <- struct{}{}:
		default: // there is one already
		}
	}
}

// get asks nftables and hands out the attributes of every answer with the
// family that it is about.
func (c *conn) get(message uint16, dump bool, family uint8, request []byte,
	each func(family uint8, a map[uint16][]byte) error) error {
	flags := netlink.Request
	if dump {
		flags |= netlink.Dump
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return fmt.Errorf("cannot ask nftables: %w", err)
	}
	asked, err := c.Send(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | message), Flags: flags},
		Data:   append([]byte{family, 0, 0, 0}, request...), // struct nfgenmsg
	})
	if err != nil {
		return failure(err)
	}
	answers, err := c.Receive()
	// What comes late of an earlier question, which was given up, is nobody's.
	for err == nil && len(answers) > 0 && answers[0].Header.Sequence != asked.Header.Sequence {
		answers, err = c.Receive()
	}
	if err != nil {
		return failure(err)
	}
	for _, m := range answers {
		switch {
		case m.Header.Flags&netlink.DumpInterrupted != 0:
			return errChanged
		case len(m.Data) >= 4:
			if err := each(m.Data[0], fieldsOf(m.Data[4:])); err != nil {
				return err
			}
		}
	}
	return nil
}

// failure says what an answer's error means.
func failure(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("nftables: %w", errPrivileges)
	case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOENT): // what was to be listed is gone again
		return errChanged
	}
	return fmt.Errorf("nftables: %w", err)
}
