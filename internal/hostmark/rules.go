package hostmark

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/fwmark"
)

// Rules are the mark rules of a host.
type Rules struct {
	// V4 and V6 are what is followed of each family, in the order in which it
	// is to be evaluated. Each rule can be given to fwmark.Table.Append.
	V4, V6 []fwmark.Rule
	// Unfollowed are the texts of rules that have a part in marks and are not
	// followed: as iptables -S prints them, or as nft monitor does ("add rule
	// ip table chain …"). Dots stand for what is not known.
	Unfollowed []string
}

// Equal reports whether two hosts' rules are the same, comments and texts
// included.
func (r Rules) Equal(o Rules) bool {
	same := func(a, b fwmark.Rule) bool { return a.Equal(&b) }
	return slices.EqualFunc(r.V4, o.V4, same) && slices.EqualFunc(r.V6, o.V6, same) &&
		slices.Equal(r.Unfollowed, o.Unfollowed)
}

// errPrivileges is what lacks of rights come to.
var errPrivileges = errors.New("reading the firewall's rules needs root, or CAP_NET_ADMIN in the network namespace's user namespace")

// Read reads the mark rules of the calling thread's network namespace, for packets
// from some interfaces; none given are all but lo. A firewall that the kernel does not
// have has no rules.
func Read(interfaces ...string) (Rules, error) {
	r, err := newReader(interfaces)
	if err != nil {
		return Rules{}, err
	}
	defer r.close()
	return r.rules()
}

// reader reads the rules of the network namespace in which it was made. It
// must stay on threads in that namespace, for the sake of /proc.
type reader struct {
	nft    *conn  // nil: the kernel has no nftables
	legacy [2]int // sockets for IPv4 and IPv6; -1: none
	// last is what was read of iptables-legacy.
	last [2]*blob
	nat  [2]bool
	// interfaces are those that ulvs takes packets from.
	interfaces interfaces
}

func newReader(from []string) (*reader, error) {
	r := &reader{legacy: [2]int{-1, -1}, interfaces: from}
	var err error
	if r.nft, err = dial(); err != nil && !errors.Is(err, errAbsent) {
		return nil, fmt.Errorf("mark rules: %w", err)
	}
	return r, nil
}

func (r *reader) close() {
	if r.nft != nil {
		r.nft.close()
	}
	for _, fd := range r.legacy {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// readTables reads iptables-legacy's tables, if they exist, and reports
// whether they have changed. To ask for one would make it, hence the look into
// /proc first.
func (r *reader) readTables() (changed bool, err error) {
	for i, file := range []string{"/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"} {
		b, err := os.ReadFile(file)
		switch {
		case errors.Is(err, os.ErrPermission):
			return false, fmt.Errorf("iptables-legacy: %w", errPrivileges)
		case err != nil && !errors.Is(err, os.ErrNotExist):
			return false, fmt.Errorf("iptables-legacy: %w", err)
		}
		names := strings.Fields(string(b))
		var now *blob
		if slices.Contains(names, "mangle") {
			if r.legacy[i] < 0 {
				if r.legacy[i], err = legacySocket(i == 1); err != nil {
					return false, fmt.Errorf("iptables-legacy: %w", os.NewSyscallError("socket", err))
				}
			}
			if now, err = readLegacy(r.legacy[i], i == 1); err != nil {
				return false, err
			}
		}
		nat := slices.Contains(names, "nat")
		if !now.equal(r.last[i]) || nat != r.nat[i] {
			r.last[i], r.nat[i], changed = now, nat, true
		}
	}
	return changed, nil
}

// rules reads everything.
func (r *reader) rules() (Rules, error) {
	if _, err := r.readTables(); err != nil {
		return Rules{}, fmt.Errorf("mark rules: %w", err)
	}
	return r.nftRules()
}

// nftRules reads nftables anew and takes iptables-legacy as last read.
func (r *reader) nftRules() (Rules, error) {
	set := &ruleset{}
	for _, b := range r.last {
		if b != nil {
			b.interfaces = r.interfaces
		}
	}
	if r.nft != nil {
		s, err := readRuleset(r.nft)
		switch {
		case err == nil:
			set = s
		case !errors.Is(err, errAbsent):
			return Rules{}, fmt.Errorf("mark rules: %w", err)
		}
	}
	set.interfaces = r.interfaces
	var walls [2]firewall
	for i := range walls {
		w, err := assemble(set, i == 1, r.last[i], r.nat[i])
		if err != nil {
			return Rules{}, fmt.Errorf("mark rules: %w", err)
		}
		walls[i] = w
	}
	return resolveBoth(walls[0], walls[1]), nil
}

// Priorities of hooks (include/uapi/linux/netfilter_ipv4.h). IPVS is at priorityIPVS of
// the hook input (net/netfilter/ipvs/ip_vs_core.c, ip_vs_ops4): chains before it count.
const (
	priorityMangle  = -150
	priorityDestNAT = -100
	priorityIPVS    = 98
)

// assemble brings all firewalls of a family into the order of the hooks and their
// priorities. Which of two chains of the same priority comes first is not told
// where one of them is legacy's; the legacy one is taken to be the elder.
func assemble(set *ruleset, ipv6 bool, legacy *blob, nat bool) (f firewall, err error) {
	f.own, f.ipv6 = map[string]table{}, ipv6
	for _, ch := range set.hooked(ipv6, unix.NF_INET_PRE_ROUTING) {
		nat = nat || ch.kind == "nat" && len(ch.rules) > 0
	}
	var old legacyTable
	if legacy != nil {
		if old, err = legacy.parse(); err != nil {
			return f, err
		}
		f.own["legacy"] = old.own
	}
	f.hook(set, ipv6, unix.NF_INET_PRE_ROUTING, old.prerouting, nat)
	f.hook(set, ipv6, unix.NF_INET_LOCAL_IN, old.input, nat)
	return f, nil
}

// hook adds the chains of one hook.
func (f *firewall) hook(set *ruleset, ipv6 bool, hook uint32, legacy []step, nat bool) {
	into := hookPrerouting
	if hook == unix.NF_INET_LOCAL_IN {
		into = hookInput
	}
	addLegacy := func() {
		if len(legacy) > 0 {
			f.bases = append(f.bases, chain{steps: legacy, name: "mangle", hook: into, later: nat && into == hookInput})
			f.table = append(f.table, "legacy")
			legacy = nil
		}
	}
	scratch := fwmark.NewTable(ipv6)
	for _, ch := range set.hooked(ipv6, hook) {
		if ch.kind != "filter" || into == hookInput && ch.priority > priorityIPVS {
			continue
		}
		if ch.priority > priorityMangle {
			addLegacy()
		}
		steps := set.steps(ch, ipv6, scratch)
		if ch.drop {
			text := "add chain " + ch.place() + " { policy drop; }"
			if set.iptables(ch) {
				text = "-P " + ch.name + " DROP"
			}
			steps = append(steps, step{id: ch.place(), text: text,
				effects: []effect{{kind: drops, when: []fwmark.Rule{{IPv6: ipv6}}}}})
		}
		f.bases = append(f.bases, chain{steps: steps, name: ch.name, hook: into,
			later: nat && (into == hookInput || ch.priority >= priorityDestNAT)})
		id := familyName(ch.family) + " " + ch.table
		f.table = append(f.table, id)
		if f.own[id] == nil {
			f.own[id] = table{}
		}
		set.reach(f.own[id], ch, steps, ipv6, scratch)
	}
	addLegacy()
}

// reach reads the chains that steps jump to, and those that they jump to.
func (r *ruleset) reach(own table, from *nftChain, steps []step, ipv6 bool, scratch *fwmark.Table) {
	for _, s := range steps {
		for _, e := range s.effects {
			key := from.chainKey
			key.name = e.target
			ch := r.chains[key]
			if _, done := own[e.target]; done || ch == nil {
				continue
			}
			own[e.target] = nil // while it is read
			own[e.target] = r.steps(ch, ipv6, scratch)
			r.reach(own, ch, own[e.target], ipv6, scratch)
		}
	}
}

// iptables reports a chain of iptables-nft.
func (r *ruleset) iptables(ch *nftChain) bool {
	key := ch.chainKey
	key.name = "PREROUTING"
	base := r.chains[key]
	return ch.family != unix.NFPROTO_INET && (ch.table == "mangle" || ch.table == "raw") && base != nil && base.kind == "filter"
}

func familyName(family uint8) string {
	switch family {
	case unix.NFPROTO_IPV4:
		return "ip"
	case unix.NFPROTO_IPV6:
		return "ip6"
	}
	return "inet"
}

// place is how nft names a chain.
func (ch *nftChain) place() string {
	return familyName(ch.family) + " " + ch.table + " " + ch.name
}

// steps reads the rules of a chain.
func (r *ruleset) steps(ch *nftChain, ipv6 bool, scratch *fwmark.Table) (list []step) {
	for _, rule := range ch.rules {
		w := &walker{
			condition: condition{ipv6: ipv6}, iptables: r.iptables(ch), chain: ch.name, scratch: scratch,
			interfaces: r.interfaces,
			sets:       func(name string) *nftSet { return r.sets[chainKey{ch.family, ch.table, name}] },
		}
		for _, e := range rule.expressions {
			w.expression(e)
		}
		s := w.step(ch.place()+" "+strconv.FormatUint(rule.handle, 10), ch.place(), rule.comment)
		if w.iptables && ch.table != "mangle" && s.text != "" {
			s.text = "-t " + ch.table + " " + s.text
		}
		list = append(list, s)
	}
	return list
}
