package afpacket

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
)

// ErrNoNftables is the error of Claim where the kernel cannot keep its own
// stack away from the claimed packets. A Director serves nothing there: a host
// that has a claimed address, or forwards, would answer beside it.
var ErrNoNftables = errors.New("the kernel has no nftables netdev ingress hook: " +
	"run ulvs on one with CONFIG_NF_TABLES_NETDEV and CONFIG_NETFILTER_INGRESS")

// claims keeps the host's stack away from what the director answers for: on
// each interface a netdev ingress chain drops it. The chain comes after our
// socket (net/core/dev.c, __netif_receive_skb_core: first ptype_all, then
// nf_ingress) and before everything else.
//
// The tables carry the interface's name, so that a later daemon replaces what
// one that was killed left behind. Until then they stay, and the host goes on
// dropping: connections survive a restart, which a reset would end.
type claims struct {
	ns    namespace
	owner string        // the chain that says whose a table is, or ""
	mac   dataplane.MAC // another one to which frames are taken, or zero
	keep  bool          // when the plane ends

	mu         sync.Mutex
	interfaces []string // those that are there
	gone       []string // those that are not any more, whose tables may be there

	active  bool // tables are there
	last    dataplane.Claims
	now     plan // of last
	ended   bool
	chains  map[string][]string // for marks, by interface; nil: what is in the tables is not known
	earlier map[string]table    // those that were there before the first claim; nil: not looked at
	conn    *nftables.Conn      // or nil
}

func (c *claims) replace(to dataplane.Claims) error {
	if err := checkClaims(&to); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.change(to)
}

// change is replace; the caller holds mu.
func (c *claims) change(to dataplane.Claims) error {
	if c.ended {
		return errors.New("the plane has ended, so it claims nothing: make a new one")
	}
	if len(c.interfaces) == 0 && len(c.gone) == 0 && !c.active {
		c.last = to // a program keeps the host from all there are
		return nil
	}
	if len(to.Services) == 0 && len(to.Marks4) == 0 && len(to.Marks6) == 0 {
		c.last = to
		return c.remove()
	}
	c.look()
	next := planOf(&to)
	if c.active && c.chains != nil && !maps.Equal(awayAmong(&c.last), awayAmong(&to)) && c.now.same(&next) {
		c.last = to // the kernel knows by itself what is away
		return nil
	}
	next.made = c.now.made
	known := c.active && c.chains != nil
	err := errAnew
	if changes := c.now.changes(&next); known && changes != nil {
		err = c.update(changes)
	}
	if err != nil && known {
		err = c.rewrite(&to, &next)
	}
	if err != nil { // nothing was known, or somebody removed a table
		c.chains = nil
		err = c.rewrite(&to, &next)
	}
	if err == nil {
		c.active, c.last, c.now = true, to, next
	}
	return err
}

// awayAmong are the claims of services that are away.
func awayAmong(c *dataplane.Claims) map[dataplane.Claim]bool {
	away := map[dataplane.Claim]bool{}
	for _, one := range c.Services {
		if one.Away {
			away[one] = true
		}
	}
	return away
}

// errAnew says that the tables cannot be changed in part.
var errAnew = errors.New("the tables are made anew")

// update changes the named sets of all tables.
func (c *claims) update(changes []change) error {
	return c.transact(func(conn *nftables.Conn) error {
		for _, name := range c.interfaces {
			if err := update(conn, name, changes); err != nil {
				return err
			}
		}
		return nil
	})
}

// rewrite writes all tables anew.
func (c *claims) rewrite(to *dataplane.Claims, next *plan) error {
	next.made++
	chains := map[string][]string{}
	err := c.transact(func(conn *nftables.Conn) error {
		var sets setNumbers
		for _, name := range c.interfaces {
			if !exists(name) {
				continue // it has just gone: follow will hear of that
			}
			made, err := c.addChains(conn, name, to, next, &sets)
			if err != nil {
				return err
			}
			c.sign(conn, name, c.chains[name] == nil)
			chains[name] = made
		}
		return nil
	})
	if err == nil {
		c.signed()
		c.chains = chains
	}
	return err
}

// transact sends what fill asked for as one batch, which the kernel carries
// out as a whole or not at all. The socket stays open: when one is closed, the kernel waits
// for all that earlier transactions have left to be freed, for many milliseconds
// (nf_tables_api.c, nft_rcv_nl_event).
func (c *claims) transact(fill func(*nftables.Conn) error) error {
	err := c.ns.do(func() (err error) {
		if c.conn == nil {
			if c.conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(buffers)); err != nil {
				return nftError(err)
			}
		}
		if err := fill(c.conn); err != nil {
			return err
		}
		return nftError(c.conn.Flush())
	})
	if err != nil {
		c.hangUp() // answers may be left in it
	}
	return err
}

// hangUp closes the socket.
func (c *claims) hangUp() {
	if c.conn != nil {
		_ = c.conn.CloseLasting()
		c.conn = nil
	}
}

// buffers sees to it that a batch fits, and what acknowledges each of its messages.
func buffers(s *netlink.Conn) error {
	_ = s.SetReadBuffer(4 << 20)
	_ = s.SetWriteBuffer(64 << 20)
	return nil
}

func nftError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
		return fmt.Errorf("changing nftables needs CAP_NET_ADMIN: %w", err)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT),
		errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EPFNOSUPPORT):
		return fmt.Errorf("%w (%w)", ErrNoNftables, err)
	}
	return fmt.Errorf("nftables refused the claims: %w", err)
}

func tableOf(name string) *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyNetdev, Name: "ulvs-" + name}
}

// addChains asks for the chains of one interface with all their rules, and returns
// the names of those for marks. Sets are anonymous: they live and die with their
// rules, so that a packet that meets the old rules finds the old sets whole. Those with
// names are new ones too. Where it is not known which chains there are, the table goes as a
// whole.
func (c *claims) addChains(conn *nftables.Conn, name string, to *dataplane.Claims, p *plan,
	sets *setNumbers) ([]string, error) {
	last := c.chains[name]
	t := conn.AddTable(tableOf(name))
	if last == nil {
		conn.DelTable(t)
		conn.AddTable(t)
	}
	policy := nftables.ChainPolicyAccept
	ch := conn.AddChain(&nftables.Chain{
		Table:   t,
		Name:    "ingress",
		Type:    nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookIngress,
		// Before other people's chains and flow tables, which might forward.
		Priority: nftables.ChainPriorityRef(-1000),
		Policy:   &policy,
		Device:   name,
	})
	conn.FlushTable(t)
	for _, old := range last {
		conn.DelChain(&nftables.Chain{Table: t, Name: old})
	}
	if last != nil {
		removeNamed(conn, name)
	}
	b := &builder{conn: conn, table: t, chain: ch, name: name, sets: sets, times: p.made, made: []string{}}
	// What is not addressed to this host is not taken by the plane either: a
	// bridge may be passing it on. To the interface, a virtual router's address is not the
	// host's, and yet the host may have it, on a macvlan over the interface (keepalived's
	// use_vmac).
	others := exprs{meta(metaPktType, 1), differs(1, []byte{unix.PACKET_HOST})}
	if c.mac != (dataplane.MAC{}) {
		others = append(others, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseLLHeader, Len: uint32(len(c.mac))},
			differs(1, c.mac[:]))
	}
	b.add(append(others, accept)...)
	if to.WhileLocal {
		b.add(&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
			differs(1, hostOrder(unix.RTN_LOCAL)), accept)
	}
	b.services(&ipv4, p.rest.services[0], p.sets)
	b.services(&ipv6, p.rest.services[1], p.sets)
	b.marks(to)
	return b.made, b.err
}

// few is up to how many targets it costs less to compare a packet with one after the
// other than to look for it in a set.
const few = 4

// services drops packets to the services of one family: to their ports, to
// all ports, and fragments without ports, which may be theirs.
func (b *builder) services(f *ipFamily, k serviceKeys, sets named) {
	addrReg, protoReg, portReg := f.registers()
	who := exprs{f.load(f.dst, addrReg), meta(metaL4Proto, protoReg)}
	port := exprs{transport(2, 2, portReg)}
	drop := func(kind string, t nftables.SetDatatype, few keys, match ...exprs) {
		if many := sets[kind+f.name()]; many != nil {
			set := b.lookupNamed(kind+f.name(), t, f.bytes(maps.Keys(many)), addrReg)
			b.add(append(join(match...), set, &expr.Verdict{Kind: expr.VerdictDrop})...)
			return
		}
		b.drop(t, f.bytes(maps.Keys(few)), addrReg, match...)
	}
	drop("any", f.addrProto(), k.anyPort, f.is(), who)
	if targets := byTarget(k.ports); len(targets) <= few {
		for _, t := range slices.SortedFunc(maps.Keys(targets), func(a, b key) int {
			return cmp.Or(bytes.Compare(a.addr[:], b.addr[:]), cmp.Compare(a.proto, b.proto))
		}) {
			is := exprs{equals(addrReg, t.addr[:f.size]), equals(protoReg, []byte{t.proto})}
			b.drop(nftables.TypeInetService, targets[t], portReg, f.is(), who, is, port)
		}
		k.ports = nil
	}
	drop("ports", f.addrProtoPort(), k.ports, f.is(), who, port)
	drop("fragments", f.addrProto(), k.fragments, f.is(), f.laterFragment(), who)
	for _, s := range k.ranges {
		rule := append(exprs{}, f.is()...)
		rule = append(rule, f.load(f.dst, 1), equals(1, s.Addr.AsSlice()), meta(metaL4Proto, 1),
			equals(1, []byte{s.Proto}),
			transport(2, 2, 1), &expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: netOrder(s.Port),
				ToData: netOrder(s.Last)},
			&expr.Verdict{Kind: expr.VerdictDrop})
		b.add(rule...)
	}
}

// checkClaims refuses what the rules cannot say.
func checkClaims(c *dataplane.Claims) error {
	for _, s := range c.Services {
		if !s.Addr.IsValid() || s.Addr.Zone() != "" {
			return fmt.Errorf("cannot claim a service at address %q: give an address without a zone", s.Addr)
		}
	}
	for _, rules := range []struct {
		list []dataplane.MarkRule
		is4  bool
	}{{c.Rules4, true}, {c.Rules6, false}} {
		for i := range rules.list {
			if err := checkRule(&rules.list[i], rules.is4); err != nil {
				return fmt.Errorf("cannot claim by mark rule %d: %w", i+1, err)
			}
		}
	}
	return nil
}

func checkRule(r *dataplane.MarkRule, is4 bool) error {
	if goes := r.Verb == dataplane.Jump || r.Verb == dataplane.Goto; goes != (r.To != "") || r.Verb > dataplane.Goto {
		return fmt.Errorf("verb %d to chain %q: a chain belongs to Jump and Goto, and to no other", r.Verb, r.To)
	}
	for _, m := range slices.Concat(r.SrcRanges, r.DstRanges) {
		if !m.First.IsValid() || m.First.Is4() != is4 || m.Last.Is4() != is4 {
			return fmt.Errorf("addresses %v to %v: both must be of the rule's family", m.First, m.Last)
		}
	}
	for _, m := range []dataplane.AddrMatch{r.Src, r.Dst} {
		if !m.Addr.IsValid() && !m.Mask.IsValid() && !m.Not {
			continue
		}
		if !m.Addr.IsValid() || !m.Mask.IsValid() || m.Addr.Is4() != is4 || m.Mask.Is4() != is4 {
			return fmt.Errorf("address %v mask %v: both must be of the rule's family", m.Addr, m.Mask)
		}
	}
	either := 0
	for _, m := range r.Ports {
		if m.Side > dataplane.EitherPort {
			return fmt.Errorf("unknown side %d of a port condition: see dataplane's constants", m.Side)
		}
		if m.Side == dataplane.EitherPort {
			// Each doubles the rules.
			if either++; either > 4 {
				return errors.New("more than four conditions on either port")
			}
		}
		for _, p := range m.Ranges {
			if p.First > p.Last {
				return fmt.Errorf("ports %d to %d: the first is larger", p.First, p.Last)
			}
		}
	}
	return nil
}
