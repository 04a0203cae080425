package ipvsnl

import (
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
)

// Caller is who has sent a datagram. The zero value is somebody without rights.
type Caller struct {
	// Port is the socket's, to which answers are addressed.
	Port uint32 `json:"port,omitempty"`
	// Admin says that the caller has CAP_NET_ADMIN over the network namespace of the socket
	// (GENL_ADMIN_PERM).
	Admin bool `json:"admin,omitempty"`
	// CapAck says that the socket does not want its requests back in errors
	// (NETLINK_CAP_ACK).
	CapAck bool `json:"cap_ack,omitempty"`
}

// Answer carries out what a datagram asks of the family IPVS, and of the controller about that
// family, and returns the datagrams that the kernel would send back, in their order
// (net/netlink/af_netlink.c, netlink_rcv_skb; net/netlink/genetlink.c). What cannot be parsed
// ends the datagram, as there.
func Answer(to ulvs.Control, from Caller, datagram []byte) [][]byte {
	a := &answering{control: to, from: from}
	for len(datagram) >= unix.NLMSG_HDRLEN {
		r := requestOf(datagram)
		if r.length < unix.NLMSG_HDRLEN || r.length > len(datagram) {
			break
		}
		r.raw = datagram[:r.length]
		a.message(r)
		datagram = datagram[min(align(r.length), len(datagram)):]
	}
	return a.out
}

// answering is one datagram on its way.
type answering struct {
	control ulvs.Control
	from    Caller
	out     [][]byte
}

// request is a message (struct nlmsghdr).
type request struct {
	length      int
	kind, flags uint16
	sequence    uint32
	raw         []byte // all of it
}

func requestOf(b []byte) request {
	return request{length: int(order.Uint32(b)), kind: order.Uint16(b[4:]), flags: order.Uint16(b[6:]),
		sequence: order.Uint32(b[8:])}
}

// command is what follows the header (struct genlmsghdr).
func (r request) command() uint8 { return r.raw[unix.NLMSG_HDRLEN] }

// genlHeader is how long that is.
const genlHeader = 4

// attributes are what follows it.
func (r request) attributes() []byte { return r.raw[unix.NLMSG_HDRLEN+genlHeader:] }

// message answers one message.
func (a *answering) message(r request) {
	var err error
	if r.flags&unix.NLM_F_REQUEST != 0 && r.kind >= unix.NLMSG_MIN_TYPE {
		dump, failed := a.carryOut(r)
		if dump {
			return // whose end is the acknowledgement
		}
		err = failed
	}
	if r.flags&unix.NLM_F_ACK != 0 || err != nil {
		a.acknowledge(r, errnoOf(err))
	}
}

// carryOut does what a request asks. dump says that a dump has begun, and has ended.
func (a *answering) carryOut(r request) (dump bool, err error) {
	if r.kind != FamilyID && r.kind != unix.GENL_ID_CTRL {
		return false, unix.ENOENT
	}
	if r.length < unix.NLMSG_HDRLEN+genlHeader {
		return false, unix.EINVAL
	}
	if r.kind == unix.GENL_ID_CTRL {
		return false, a.controller(r)
	}
	if int(r.command()) >= len(operations) {
		return false, unix.EOPNOTSUPP
	}
	op := operations[r.command()]
	switch {
	case op.do == nil && op.dump == nil:
		return false, unix.EOPNOTSUPP
	case !a.from.Admin:
		return false, unix.EPERM
	case r.flags&unix.NLM_F_DUMP == unix.NLM_F_DUMP:
		if op.dump == nil {
			return false, unix.EOPNOTSUPP
		}
		all, err := op.dump(a.control, r.attributes())
		if err != nil {
			return false, err
		}
		a.list(r, op.answer, all)
		return true, nil
	case op.do == nil:
		return false, unix.EOPNOTSUPP
	}
	found, err := parse(r.attributes(), cmdRules[:])
	if err != nil {
		return false, err
	}
	answer, err := op.do(a.control, found)
	if err == nil && op.answer != 0 {
		a.send(FamilyID, 0, r.sequence, genl(op.answer, answer))
	}
	return false, err
}

// operation is what a command does: alone, and asked for all there is (struct genl_ops).
type operation struct {
	// do is given a message's attributes, and returns those of the answer.
	do func(to ulvs.Control, given [][]byte) (answer []byte, err error)
	// dump returns the attributes of as many messages.
	dump func(to ulvs.Control, given []byte) (all [][]byte, err error)
	// answer is the command in the answers; 0: there are none.
	answer uint8
}

// operations are the commands by their numbers (ip_vs_ctl.c, ip_vs_genl_ops).
var operations = [...]operation{
	cmdNewService: {do: change(newService)},
	cmdSetService: {do: change(setService)},
	cmdDelService: {do: change(delService)},
	cmdGetService: {do: getService, dump: dumpServices, answer: cmdNewService},
	cmdNewDest:    {do: change(newDest)},
	cmdSetDest:    {do: change(setDest)},
	cmdDelDest:    {do: change(delDest)},
	cmdGetDest:    {dump: dumpDests, answer: cmdNewDest},
	cmdNewDaemon:  {do: change(newDaemon)},
	cmdDelDaemon:  {do: change(delDaemon)},
	cmdGetDaemon:  {dump: dumpDaemons, answer: cmdNewDaemon},
	cmdSetConfig:  {do: change(setConfig)},
	cmdGetConfig:  {do: getConfig, answer: cmdSetConfig},
	cmdGetInfo:    {do: getInfo, answer: cmdSetInfo},
	cmdZero:       {do: change(zero)},
	cmdFlush:      {do: change(flush)},
}

// change is the operation of a command that answers nothing.
func change(f func(ulvs.Control, [][]byte) error) func(ulvs.Control, [][]byte) ([]byte, error) {
	return func(to ulvs.Control, given [][]byte) ([]byte, error) { return nil, f(to, given) }
}
