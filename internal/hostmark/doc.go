// Package hostmark reads the mark rules of the host's own firewall and follows
// their changes: what ran `iptables -t mangle -A PREROUTING … -j MARK` before
// ulvs came keeps working.
//
// It reads the network namespace of the calling thread: nftables, which holds
// the rules of iptables-nft too, by netlink, and iptables-legacy by
// getsockopt. What is found becomes fwmark.Rules, in the order in which the
// kernel applies them. A rule that sets a mark is either followed as a whole
// or listed with its text; it is never half applied.
//
// Of nftables, the chains of type filter at the hooks prerouting and input are
// looked at (families ip, ip6, inet), in the order of their priorities; at the
// hook input those before IPVS, and of iptables-legacy PREROUTING and INPUT of
// mangle. Chains that they jump to are followed as chains. Where a chain of
// type nat with rules exists, what comes behind it (prerouting from priority
// dstnat, -100, on, and input) is not followed, since it sees other addresses.
//
// Not followed, and listed, are
//   - rules that set a mark, or jump to chains that do, and have a condition or
//     a value that fwmark cannot express: ct, limit, sets that change by
//     themselves, ipset, maps, …;
//   - rules that set a mark behind a verdict that could keep their packets from
//     them, if it is one that cannot be followed itself: under such a condition,
//     queue, or accept in a chain that is jumped to where another base chain of
//     the same hook follows; and that verdict;
//   - rules with a condition on a mark that a rule not followed may have set, or
//     on a type of service that an earlier rule may have changed;
//   - rules that drop packets which a followed rule marks: the marks are
//     followed, but ulvs drops nothing. (What INPUT drops is not looked at.)
//
// A rule for interfaces from which ulvs takes no packets is none of these.
// All other rules have no part in marks.
//
// Conditions on ports without one on the protocol (`th dport`) are taken for
// tcp, udp and sctp, which are all that a virtual service can have.
package hostmark
