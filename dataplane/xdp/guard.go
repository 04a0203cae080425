package xdp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ErrTaken says that an interface has the program of another ulvs daemon, which would
// go on forwarding in front of whatever takes packets there.
var ErrTaken = errors.New("another ulvs daemon's program is in front of it: end that daemon, and remove what it left with \"ulvs detach\" and its --control and --pin")

// ErrHidden says that an interface has a program that may be another ulvs daemon's.
var ErrHidden = errors.New("there is an XDP program in front of it which this process may not look at (that takes CAP_SYS_ADMIN): if a ulvs daemon has left it, remove it with \"ulvs detach\" and that daemon's --control and --pin; if it is somebody else's, give --plane afpacket")

// Owner says whose the program in front of an interface is.
type Owner int

const (
	// OwnerNone is for no program, one that is pinned in the folder that was asked about,
	// and one that is not ulvs's.
	OwnerNone Owner = iota
	// OwnerULVS is another ulvs daemon, which may have ended.
	OwnerULVS
	// OwnerHidden is not to be known: this process may not look at the program.
	OwnerHidden
	// OwnerHiddenNeighbor is OwnerHidden of a program at the ingress, where there may be others beside it.
	OwnerHiddenNeighbor
)

// Programs returns the programs at an interface's ingress (package tcx); an error is for none.
type Programs func(ifindex int) ([]ebpf.ProgramID, error)

// OwnerOf says whose the program of an interface is, by XDP or at the ingress, in the calling
// thread's network namespace, but for one that is pinned in a folder, which may be "". A program of a
// process that has just ended may be there for a moment: that is waited for.
func OwnerOf(interfaceName, pinned string, ingress Programs) (Owner, error) {
	ifi, err := net.InterfaceByName(interfaceName)
	if err != nil {
		return OwnerNone, fmt.Errorf("cannot find interface %s: %w", interfaceName, err)
	}
	own := pinnedPrograms(pinned)
	for end := time.Now().Add(time.Second); ; time.Sleep(10 * time.Millisecond) {
		there, _ := ingress(ifi.Index)
		owner := ownerOf(attached(ifi.Index), own)
		if at := ownerOf(there, own); at == OwnerULVS || owner == OwnerNone {
			owner = at
			if at == OwnerHidden {
				owner = OwnerHiddenNeighbor
			}
		}
		if owner == OwnerNone || time.Now().After(end) {
			return owner, nil
		}
	}
}

// ownerOf says whose some programs are, but for own.
func ownerOf(programs, own []ebpf.ProgramID) Owner {
	owner := OwnerNone
	for _, id := range programs {
		if slices.Contains(own, id) {
			continue
		}
		prog, err := ebpf.NewProgramFromID(id)
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
			owner = OwnerHidden
		}
		if err != nil {
			continue
		}
		about, err := prog.Info()
		_ = prog.Close()
		if err == nil && about.Name == ProgramName {
			return OwnerULVS
		}
	}
	return owner
}

// HasPinned reports whether a folder of pins has a program for an interface.
func HasPinned(dir, interfaceName string) bool {
	p := &pins{dir: dir}
	for _, pin := range linkPins(interfaceName) {
		if _, err := os.Stat(p.path(pin)); err == nil {
			return true
		}
	}
	return false
}

// pinnedPrograms returns the programs of the links that are pinned in a folder.
func pinnedPrograms(dir string) (ids []ebpf.ProgramID) {
	if dir == "" {
		return nil
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), linkPrefix) {
			continue
		}
		at := (&pins{dir: dir}).path(e.Name())
		l, err := link.LoadPinnedLink(at, nil)
		if err != nil {
			if id, ok := pinnedProgram(at); ok {
				ids = append(ids, id)
			}
			continue
		}
		if info, err := l.Info(); err == nil {
			ids = append(ids, info.Program)
		}
		_ = l.Close()
	}
	return ids
}

// pinnedProgram returns which program a file is, that stands for a filter.
func pinnedProgram(path string) (id ebpf.ProgramID, ok bool) {
	p, err := ebpf.LoadPinnedProgram(path, nil)
	if err != nil {
		return 0, false
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return 0, false
	}
	return info.ID()
}

// filtered returns the interfaces that have the filter for which a file stands.
func filtered(path string, ingress Programs) (names []string) {
	id, ok := pinnedProgram(path)
	all, err := net.Interfaces()
	if !ok || err != nil {
		return nil
	}
	for _, ifi := range all {
		if there, _ := ingress(ifi.Index); slices.Contains(there, id) {
			names = append(names, ifi.Name)
		}
	}
	return names
}

// attached returns the XDP programs of an interface. (A link's info says of no namespace, and
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
