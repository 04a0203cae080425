// Package fwmark turns the rules of iptables' table mangle into marks.
//
// iptables marks packets only after XDP and packet sockets have seen them, so
// ulvs evaluates the rules itself: those of PREROUTING, then those of INPUT,
// behind which IPVS sits, and of the chains that they jump to. A Table holds
// the rules of one family and speaks iptables' own words: Command carries out
// what follows `iptables` on a command line, Save and Restore read and write
// the text of iptables-save. Compile makes a Set of the rules, which gives a
// packet its mark.
//
// A rule that ulvs cannot evaluate is refused with its text and the word that
// was not understood; it is never half applied.
package fwmark
