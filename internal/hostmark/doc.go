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
// Of nftables, the chains of type filter at the hook prerouting are looked at
// (families ip, ip6, inet), in the order of their priorities. Where a chain of
// type nat with rules exists, those behind it (from priority dstnat, -100, on)
// are not followed, since they see other addresses.
//
// Not followed, and listed, are
//   - rules that set a mark and have a condition or a value that fwmark cannot
//     express: ct, limit, sets that change by themselves, maps, …;
//   - rules that set a mark behind a verdict that could keep their packets from
//     them: accept, queue, return and goto in the same chain; and that verdict;
//   - jumps to chains that set marks, and the rules there that do;
//   - rules with a condition on a mark that a rule not followed may have set;
//   - rules that drop packets which a followed rule marks: the marks are
//     followed, but ulvs drops nothing. (What INPUT drops is not looked at.)
//
// All other rules have no part in marks.
//
// Conditions on ports without one on the protocol (`th dport`) are taken for
// tcp, udp and sctp, which are all that a virtual service can have.
package hostmark
