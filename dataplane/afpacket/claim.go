package afpacket

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
)

// ErrNoNftables is the error of Claim where the kernel cannot keep its own
// stack away from the claimed packets. It is harmless where no claimed address
// is configured on the host, the host does not forward, and the services are
// IPv4: for IPv6 the host answers "no route" all the same.
var ErrNoNftables = errors.New("afpacket: the kernel has no nftables netdev ingress hook (CONFIG_NF_TABLES_NETDEV, CONFIG_NETFILTER_INGRESS): " +
	"take the virtual addresses off this host and switch forwarding off, or the host will answer beside ulvs")

// claims keeps the host's stack away from what the director answers for: on
// each interface a netdev ingress chain drops it. The chain comes after our
// socket (net/core/dev.c, __netif_receive_skb_core: first ptype_all, then
// nf_ingress) and before everything else.
//
// The tables carry the interface's name, so that a later daemon replaces what
// one that was killed left behind. Until then they stay, and the host goes on
// dropping: connections survive a restart, which a reset would end.
type claims struct {
	ns         namespace
	interfaces []string
	owner      string // the chain that says whose a table is, or ""
	keep       bool   // when the plane ends

	mu      sync.Mutex
	active  bool // tables are there
	last    dataplane.Claims
	ended   bool
	chains  map[string][]string // for marks, by interface; nil: not known
	earlier map[string]table    // those that were there before the first claim; nil: not looked at
}

func (c *claims) replace(to dataplane.Claims) error {
	if err := checkClaims(&to); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return errors.New("afpacket: the plane has ended, so it claims nothing: make a new one")
	}
	if len(to.Services) == 0 && len(to.Marks4) == 0 && len(to.Marks6) == 0 {
		c.last = to
		return c.remove()
	}
	c.look()
	chains := map[string][]string{}
	err := c.transact(func(conn *nftables.Conn) error {
		var sets setNumbers
		for _, name := range c.interfaces {
			made, err := addChains(conn, name, &to, &sets, c.chains[name])
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
		c.active, c.last, c.chains = true, to, chains
	}
	return err
}

// transact sends what fill asked for as one batch, which the kernel carries
// out as a whole or not at all.
func (c *claims) transact(fill func(*nftables.Conn) error) error {
	return c.ns.do(func() error {
		conn, err := nftables.New(nftables.WithSockOptions(func(s *netlink.Conn) error {
			// Each message is acknowledged; all of that must fit.
			_ = s.SetReadBuffer(4 << 20)
			_ = s.SetWriteBuffer(4 << 20)
			return nil
		}))
		if err != nil {
			return nftError(err)
		}
		if err := fill(conn); err != nil {
			return err
		}
		return nftError(conn.Flush())
	})
}

func nftError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
		return fmt.Errorf("afpacket: changing nftables needs CAP_NET_ADMIN: %w", err)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT),
		errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EPFNOSUPPORT):
		return fmt.Errorf("%w (%w)", ErrNoNftables, err)
	}
	return fmt.Errorf("afpacket: nftables refused the claims: %w", err)
}

func tableOf(name string) *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyNetdev, Name: "ulvs-" + name}
}

// addChains asks for the chains of one interface with all their rules, and returns
// the names of those for marks. Sets are anonymous: they live and die with their
// rules, so that a packet that meets the old rules finds the old sets whole. last are
// the chains that were there; nil: what is there is not known, and goes as a whole.
func addChains(conn *nftables.Conn, name string, c *dataplane.Claims, sets *setNumbers,
	last []string) ([]string, error) {
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
	b := &builder{conn: conn, table: t, chain: ch, name: name, sets: sets, made: []string{}}
	// What is not addressed to this host is not taken by the plane either: a
	// bridge may be passing it on.
	b.add(meta(metaPktType, 1), differs(1, []byte{unix.PACKET_HOST}), accept)
	b.services(&ipv4, c.Services)
	b.services(&ipv6, c.Services)
	b.marks(c)
	return b.made, b.err
}

// target is what a service's packets are addressed to, but for the port.
type target struct {
	addr  netip.Addr
	proto uint8
}

// key returns a target in registers. Fields of a concatenation are padded to four bytes.
func (t target) key() []byte { return append(t.addr.AsSlice(), t.proto, 0, 0, 0) }

func (t target) compare(o target) int { return slices.Compare(t.key(), o.key()) }

// few is up to how many targets it costs less to compare a packet with one after the
// other than to look for it in a set.
const few = 4

// services drops packets to the services of one family: to their ports, to
// all ports, and fragments without ports, which may be theirs.
func (b *builder) services(f *ipFamily, services []dataplane.Claim) {
	var anyPort, fragments [][]byte
	var ranges []dataplane.Claim
	ports := map[target][][]byte{}
	for _, s := range services {
		addr := s.Addr
		if addr.Is4() != f.is4 {
			continue
		}
		t := target{addr, s.Proto}
		if s.Port == 0 {
			anyPort = append(anyPort, t.key())
			continue
		}
		if s.Last != 0 {
			ranges = append(ranges, s)
		} else {
			ports[t] = append(ports[t], netOrder(s.Port))
		}
		fragments = append(fragments, t.key())
	}
	addrReg, protoReg, portReg := f.registers()
	who := exprs{f.load(f.dst, addrReg), meta(metaL4Proto, protoReg)}
	port := exprs{transport(2, 2, portReg)}
	b.drop(f.addrProto(), anyPort, addrReg, f.is(), who)
	var all [][]byte
	for _, t := range slices.SortedFunc(maps.Keys(ports), target.compare) {
		list := ports[t]
		if len(ports) <= few {
			is := exprs{equals(addrReg, t.addr.AsSlice()), equals(protoReg, []byte{t.proto})}
			b.drop(nftables.TypeInetService, list, portReg, f.is(), who, is, port)
			continue
		}
		for _, p := range list {
			all = append(all, append(t.key(), p[0], p[1], 0, 0))
		}
	}
	b.drop(f.addrProtoPort(), all, addrReg, f.is(), who, port)
	b.drop(f.addrProto(), fragments, addrReg, f.is(), f.laterFragment(), who)
	for _, s := range ranges {
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
			return fmt.Errorf("afpacket: cannot claim a service at address %q: give an address without a zone", s.Addr)
		}
	}
	for _, rules := range []struct {
		list []dataplane.MarkRule
		is4  bool
	}{{c.Rules4, true}, {c.Rules6, false}} {
		for i := range rules.list {
			if err := checkRule(&rules.list[i], rules.is4); err != nil {
				return fmt.Errorf("afpacket: cannot claim by mark rule %d: %w", i+1, err)
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
			return fmt.Errorf("unknown side %d of a port condition", m.Side)
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
