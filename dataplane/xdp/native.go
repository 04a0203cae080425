package xdp

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// errVeth is native's for a pair.
var errVeth = errors.New("it is a veth pair")

// needs says what has to be seen to where a program is in a driver in spite of err.
func needs(err error) error {
	if errors.Is(err, errVeth) {
		return fmt.Errorf("%w, whose other end needs an XDP program or gro on, and tx and txvlan off (ethtool -K)", err)
	}
	return err
}

// native says what speaks against a program in an interface's driver; nil: nothing.
//
// Frames that a veth pair sends by XDP vanish unless its other end has a program,
// or GRO, and programs do not see that a checksum is unfinished; a driver that strips VLAN
// tags shows a program frames of which it cannot know that they had one.
func native(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open a socket for ethtool: %w", err)
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
	if err != nil {
		return fmt.Errorf("its driver does not say what it is: %w", err)
	}
	switch unix.ByteSliceToString(info.Driver[:]) {
	case "veth":
		return errVeth
	case "bonding":
		return errBond
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

// errBond is native's for a bond: its slaves' drivers run the program, and the kernel gives their frames to no
// socket of the bond's (net/xdp/xsk.c, xsk_rcv_check).
var errBond = errors.New("it is a bond, whose AF_XDP sockets get nothing")

// attach attaches a program to an interface. The link of a process that has just
// ended is there until the kernel comes to release it, and so is a program that was
// just detached: an interface that is busy may not be so in a moment.
func attach(prog *ebpf.Program, ifindex int) (l link.Link, err error) {
	for end := time.Now().Add(time.Second); ; time.Sleep(10 * time.Millisecond) {
		l, err = link.AttachXDP(link.XDPOptions{Program: prog, Interface: ifindex, Flags: link.XDPDriverMode})
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
	return Permitted(err)
}
