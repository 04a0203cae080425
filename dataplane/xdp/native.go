package xdp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// native says why an interface is better served in generic mode; nil: in the
// driver's.
//
// Frames that a veth pair sends by XDP vanish unless its other end has a program,
// or GRO; and a driver that strips VLAN tags shows a program frames of which it
// cannot know that they had one. In generic mode the tag stays with the frame.
func native(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
	if err != nil {
		return fmt.Errorf("its driver does not say what it is: %w", err)
	}
	if driver := unix.ByteSliceToString(info.Driver[:]); driver == "veth" {
		return errors.New("it is a veth pair")
	}
	strips, err := stripsVLAN(fd, name)
	if err != nil {
		return fmt.Errorf("its driver does not say whether it strips VLAN tags: %w", err)
	}
	if strips {
		return fmt.Errorf("its driver strips VLAN tags; to change that: ethtool -K %s rxvlan off", name)
	}
	return nil
}

// attach attaches a program to an interface. The link of a process that has just
// ended is there until the kernel comes to release it, and so is a program that was
// just detached: an interface that is busy may not be so in a moment.
func attach(prog *ebpf.Program, ifindex int, flags link.XDPAttachFlags) (l link.Link, err error) {
	for end := time.Now().Add(time.Second); ; time.Sleep(10 * time.Millisecond) {
		l, err = link.AttachXDP(link.XDPOptions{Program: prog, Interface: ifindex, Flags: flags})
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return l, err
		}
	}
}

// unfit says why a driver does not take a program.
func unfit(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) {
		return errors.New("its driver has no XDP")
	}
	return err
}

// ErrTaken says that an interface has the program of another ulvs daemon, which would
// go on forwarding in front of whatever takes packets there.
var ErrTaken = errors.New("another ulvs daemon's program is in front of it: end that daemon, and remove what it left with \"ulvs detach\" and its --control and --pin")

// taken reports whether an interface of the calling thread's network namespace has one
// of our programs. Where that is not permitted to be seen, it has not.
func taken(ifindex int) bool {
	for _, id := range attached(ifindex) {
		prog, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue
		}
		about, err := prog.Info()
		_ = prog.Close()
		if err == nil && about.Name == programName {
			return true
		}
	}
	return false
}

// attached returns the programs of an interface. (A link's info says of no namespace, and
// numbers of interfaces are the same in many.)
func attached(ifindex int) (ids []ebpf.ProgramID) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil
	}
	defer c.Close()
	ask := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(ask[4:], uint32(ifindex))
	answers, err := c.Execute(netlink.Message{Header: netlink.Header{Type: unix.RTM_GETLINK,
		Flags: netlink.Request}, Data: ask})
	if err != nil || len(answers) != 1 || len(answers[0].Data) < len(ask) {
		return nil
	}
	attributes, err := netlink.NewAttributeDecoder(answers[0].Data[len(ask):])
	if err != nil {
		return nil
	}
	for attributes.Next() {
		if attributes.Type() == unix.IFLA_XDP {
			attributes.Nested(func(xdp *netlink.AttributeDecoder) error {
				for xdp.Next() {
					if xdp.Type() >= unix.IFLA_XDP_PROG_ID && xdp.Type() <= unix.IFLA_XDP_HW_PROG_ID {
						ids = append(ids, ebpf.ProgramID(xdp.Uint32()))
					}
				}
				return nil
			})
		}
	}
	return ids
}
