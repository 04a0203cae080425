package xdp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
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

// attached are the programs of an interface. (A link's info says of no namespace, and
// numbers of interfaces are the same in many.)
func attached(ifindex int) (ids []ebpf.ProgramID) {
	rib, err := syscall.NetlinkRIB(unix.RTM_GETLINK, unix.AF_UNSPEC)
	if err != nil {
		return nil
	}
	messages, err := syscall.ParseNetlinkMessage(rib)
	if err != nil {
		return nil
	}
	native := binary.NativeEndian
	for _, m := range messages {
		if m.Header.Type != unix.RTM_NEWLINK || len(m.Data) < unix.SizeofIfInfomsg || int(native.Uint32(m.Data[4:])) != ifindex {
			continue
		}
		attributes, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil {
			return nil
		}
		for _, a := range attributes {
			if a.Attr.Type&^unix.NLA_F_NESTED != unix.IFLA_XDP {
				continue
			}
			for in := a.Value; len(in) >= unix.SizeofRtAttr; {
				size, kind := int(native.Uint16(in)), native.Uint16(in[2:])
				if kind >= unix.IFLA_XDP_PROG_ID && kind <= unix.IFLA_XDP_HW_PROG_ID && len(in) >= 8 {
					ids = append(ids, ebpf.ProgramID(native.Uint32(in[4:])))
				}
				if size = (size + 3) &^ 3; size < unix.SizeofRtAttr || size > len(in) {
					break
				}
				in = in[size:]
			}
		}
	}
	return ids
}
