// Package conformance asks the kernel and ulvs the same questions. It is for
// ulvs's tests and not covered by compatibility. It plays
// scenarios (commands, packets, pauses, listings) against a director in a lab
// of network namespaces, and writes down what became of each packet and what
// each command said. The answers of kernel IPVS, in a user-mode Linux guest,
// are recorded in testdata/reference (long ones, each about one thing) and
// testdata/scenarios (quick ones, most of them generated); ulvs must give the
// same ones.
//
//	go test ./conformance                                       ulvs against the recorded answers
//	go test ./conformance -run TestKernel -kernel [-record]     the kernel against them
//	go test ./conformance -run TestRandom -kernel -seeds 1-200  both, with scenarios made up now
//
// # Scenarios
//
// One statement a line; empty lines and lines that begin with # say nothing.
//
//	vip ADDR …                addresses of the director, instead of 192.168.10.101
//	ipvsadm ARGS              a command; listed in the answers if it fails or prints
//	iptables ARGS, ip6tables ARGS
//	sysctl NAME=VALUE         net.ipv4.vs, and other sysctls of the director
//	show ARGS                 ipvsadm ARGS, always listed
//	sleep SECONDS
//	send PROTO SRC:PORT > DST:PORT [FLAGS] [KEY=VALUE …]
//
// A send gives a batch of packets, numbered from 1 through the scenario. PROTO
// is tcp (FLAGS: letters of FSRPAUEC), udp, sctp (FLAGS: chunk types, as in
// COOKIE_ECHO,DATA) or icmp (an echo request; the source port is its
// identifier), esp or ah (with ports of 0). Keys: n= packets in the batch (1); vary=port or
// ip, what goes up by one with each packet (the source port); ttl= (64); size= bytes of
// payload (4); frag= in how many fragments each comes, order=reverse the last of them
// first, and first= how many bytes the first of them has; opts= IPv4 options and ext= IPv6
// extension headers, by names that are in headers.go; bad=header or transport, a damaged
// checksum; call= the Call-ID of a SIP INVITE over UDP, padded to size=; error=host, port,
// mtu, time or parameter: an ICMP error of the client's about an answer to what the rest
// describes.
//
// Sleeps keep to a timetable that starts with the first packet: what commands
// took meanwhile is taken off, up to a fifth.
//
// The network: client 192.168.10.1, behind which all of 10.0.0.0/8, 240.0.0.0/4 and
// 0.0.0.0/8 live; director 192.168.10.100; real servers r0 to r3 at 192.168.10.200 to .203; the
// same with fd00:10:: and, behind the client, fd01::/16.
//
// # Answers
//
//	#1 tcp 10.1.1.1:1000 > 192.168.10.101:80 S -> r2 ttl=63
//	#2 udp 10.1.1.1:1000 > 192.168.10.101:80 -> icmp 3/3
//	$ ipvsadm -Ln (exit 0)
//	  what it printed, indented by two, without trailing blanks
//
// A packet reaches real servers (r2 ttl=63), is answered to the client (rst,
// echo-reply, icmp TYPE/CODE), or reaches nobody (nothing). One that became
// several things lists them all; one that reached a server changed in more
// than TTL and link addresses is called altered, and its IPv4 options are shown if they are
// what changed (times in them as "time"); one whose destination
// answered no ARP was never sent (unresolved). Fragments have arrived when all of
// a datagram have, at one server.
//
// In connection listings the seconds to expiry are rounded to the nearest
// five (~60s) and the lines are sorted: the kernel prints in hash order.
package conformance
