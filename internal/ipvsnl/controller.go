package ipvsnl

import (
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// controller answers what family IPVS is (net/netlink/genetlink.c, ctrl_getfamily). Other
// families are the kernel's to answer for.
func (a *answering) controller(r request) error {
	if !asks(r.raw) {
		return unix.EOPNOTSUPP
	}
	answer, err := family()
	if err != nil {
		return err
	}
	header := []byte{unix.CTRL_CMD_NEWFAMILY, controllerVersion, 0, 0}
	a.send(unix.GENL_ID_CTRL, 0, r.sequence, append(header, answer...))
	return nil
}

const controllerVersion = 2

// Question asks the controller for the family, so that it can be seen whether there is one.
func Question() []byte { return whoIs(FamilyName) }

// whoIs asks the controller for a family.
func whoIs(name string) []byte {
	value := append([]byte(name), 0)
	length, typ := uint16(attrHeader+len(value)), uint16(unix.CTRL_ATTR_FAMILY_NAME)
	attribute := append(order.AppendUint16(order.AppendUint16(nil, length), typ), value...)
	payload := append([]byte{unix.CTRL_CMD_GETFAMILY, 1, 0, 0}, attribute...)
	return (&answering{}).append(nil, unix.GENL_ID_CTRL, unix.NLM_F_REQUEST, 1, payload)
}

// Ours reports whether a datagram's first message is for the family IPVS, or asks the controller
// for that by its name or number.
func Ours(datagram []byte) bool {
	if len(datagram) < unix.NLMSG_HDRLEN {
		return false
	}
	r := requestOf(datagram)
	if r.length < unix.NLMSG_HDRLEN || r.length > len(datagram) {
		return false
	}
	return r.kind == FamilyID || r.kind == unix.GENL_ID_CTRL && asks(datagram[:r.length])
}

// asks reports whether a message to the controller asks for the family IPVS.
func asks(message []byte) bool {
	r := request{raw: message}
	if len(message) < unix.NLMSG_HDRLEN+genlHeader || r.command() != unix.CTRL_CMD_GETFAMILY {
		return false
	}
	found, err := parse(r.attributes(), []rule{
		unix.CTRL_ATTR_FAMILY_ID: {kind: u16}, unix.CTRL_ATTR_FAMILY_NAME: {text, nameMax},
	})
	if err != nil {
		return false
	}
	if id := found[unix.CTRL_ATTR_FAMILY_ID]; id != nil && order.Uint16(id) == FamilyID {
		return true
	}
	name := found[unix.CTRL_ATTR_FAMILY_NAME]
	return name != nil && textOf(name) == FamilyName
}

// What an operation can do and asks for (GENL_*).
const (
	adminPerm = 1 << iota
	canDo
	canDump
	hasPolicy
)

// family describes the family (ctrl_fill_info).
func family() ([]byte, error) {
	e := netlink.NewAttributeEncoder()
	e.String(unix.CTRL_ATTR_FAMILY_NAME, FamilyName)
	e.Uint16(unix.CTRL_ATTR_FAMILY_ID, FamilyID)
	e.Uint32(unix.CTRL_ATTR_VERSION, version)
	e.Uint32(unix.CTRL_ATTR_HDRSIZE, 0)
	e.Uint32(unix.CTRL_ATTR_MAXATTR, attrs-1)
	encodeNested(e, unix.CTRL_ATTR_OPS, func(e *netlink.AttributeEncoder) {
		n := uint16(0)
		for command, op := range operations {
			flags := uint32(adminPerm | hasPolicy)
			if op.do != nil {
				flags |= canDo
			}
			if op.dump != nil {
				flags |= canDump
			}
			if op.do == nil && op.dump == nil {
				continue
			}
			n++
			encodeNested(e, n, func(e *netlink.AttributeEncoder) {
				e.Uint32(unix.CTRL_ATTR_OP_ID, uint32(command))
				e.Uint32(unix.CTRL_ATTR_OP_FLAGS, flags)
			})
		}
	})
	return e.Encode()
}
