// Package kernel compares ulvs with the kernel's own IPVS, in one guest, by the
// instructions that a packet takes. All of it are tests:
//
//	make bench-kernel
//	go test ./bench/kernel -bench Kernel -run '^$' -benchtime 1x -guests -watch -only new/rr
//
// The guest is Debian's cloud kernel 6.1 in qemu (internal/guest), whose clock
// counts instructions: one is a nanosecond, and what waits takes none
// (guest.Options.Icount). So the figures are the same on every machine, however
// busy, and repeat to a percent or two of what they are with everything: some 30
// instructions of an established packet. What they leave out is how long an instruction
// takes: cache misses, above all, cost nothing.
//
// In the guest there are two namespaces and a veth pair for each contender, the
// generator's and the sink's end (bench/wire) and the director's:
//
//	Generator --> gen0 ~~~~ dir0 <-- the contender
//	     Sink <-- gen0 ~~~~ dir0 --> to a real server's link address
//
// A round is so many packets, of which the sink has to see every one. Its figure is
// the time in which the processor was not idle, by packet, less what the guest does by itself
// in as much time. All contenders of a load, and its bases, are ready at once and take
// turns. What is compared is in one guest.
//
// # What is subtracted
//
// XDP frames end in XDP's sink, and skbs in the stack's (clsact), as an XDP program on
// veth copies what is an skb before it looks at it. It is the same sink everywhere but for
// that: as many rooms, the same program. Each kind has bases of its own:
//
//	wire-xdp   the sink in the director's place
//	bare-xdp   XDP_TX of everything, the least that forwards an XDP frame
//	wire-skb   the stack's sink in the director's place, behind a program that passes all
//	bare-skb   bpf_redirect of everything where the stack takes it from the interface, the
//	           least that forwards an skb
//
// So there are three figures: with everything; net of the wire of the same kind, whose
// ratio to kernel IPVS's is "times fewer"; and over bare.
//
// What ulvs-native's program forwards are XDP frames, and what Go forwards skbs. Of a whole
// connection some packets may be the one and some the other: there it has XDP's sink, where each
// of the latter takes 1,100 instructions more.
//
// # Contenders
//
//	hash           an XDP program that forwards from a BPF hash map, as others do
//	forward        the kernel's forwarding by a route, no IPVS
//	ipvs           kernel IPVS in direct routing, conn_tab_bits=20; firewall marks by nftables
//	ulvs-native    ulvs's XDP plane in the driver: its program forwards connections'
//	               packets, and opens connections by what Go has decided ahead; AF_XDP
//	ulvs-tcx       the same program at the ingress, by clsact where the kernel has no tcx
//	ulvs-afpacket  ulvs's AF_PACKET plane alone
//
// Loads, by the beginnings of their names:
//
//	established/   packets of one connection, ten thousand and a hundred thousand, drawn at
//	               random
//	new/           first packets of ever new connections, by scheduler and number of real
//	               servers (2, if none is named) and by service
//	connection/    all six packets of short connections: SYN, ACK, data, ACK, FIN, ACK, 1,024
//	               connections' at a time; figures are for the six together
//	4096-buckets/  with IPVS's table of the size that Debian gives it
//
// Kernel IPVS serves tagged frames by a VLAN device, and ulvs without one.
//
// # What a call takes
//
// Packets are sent 1,024 a call, base and contender alike. A call takes some 220,000
// instructions by itself, whoever sends (it sets up pages, and waits for RCU), and a
// packet on the XDP wire 700: 4,050 a packet in calls of 64, 925 in calls of 1,024, 713 in
// calls of 16,384. That is in all figures with everything, and in no others. It used to
// vary, and then bases were dearer in some runs than in others (950 to 1,370), when more
// calls were short above all: as each call is a long system call to the Go runtime, its
// monitor looked round every 20 microseconds afterwards, 20 to 50 times a call, 5,000
// instructions each. Here it is made to sleep for ten milliseconds (slacken). Of ulvs it hides
// what the monitor does for it in calls of its own: nothing measurable in native mode, some
// 200 instructions a packet (3 percent) of AF_PACKET.
package kernel
