// Package ipvsnl answers what programs send to the kernel's IPVS: the generic netlink
// family IPVS, version 1, and the older socket options of raw sockets
// (include/uapi/linux/ip_vs.h, net/netfilter/ipvs/ip_vs_ctl.c). Requests and answers are
// bytes, in this machine's byte order; what they ask for are the operator's verbs,
// ulvs.Control. The package reads and sends nothing itself.
//
// It is as strict, and as lenient, as the kernel is: attributes that it does not know
// are passed over, those that are too long or too short are refused with its errno.
package ipvsnl
