// Package kernel compares ulvs with the kernel's own IPVS, in one guest, by the
// instructions that a packet takes. All of it are tests:
//
//	make bench-kernel
//
// The guest is Debian's cloud kernel 6.1 in qemu (internal/guest), whose clock
// counts instructions: one is a nanosecond, and what waits takes none
// (guest.Options.Icount). So the figures are the same on every machine, however
// busy, and repeat to less than a percent. What they leave out is how long an
// instruction takes: cache misses, above all, cost nothing.
//
// In the guest there are two namespaces and a veth pair, the generator's and the
// sink's end (bench/wire) and the director's:
//
//	Generator --> gen0 ~~~~ dir0 <-- the contender
//	     Sink <-- gen0 ~~~~ dir0 --> to a real server's link address
//
// A round is so many packets, of which the sink has to see every one. Its figure is
// the time in which the processor was not idle, by packet, less what generator and
// sink take of it. So what remains is the director's work: taking a frame from its
// interface, all that it does with it, and handing it to its interface. The sink is
// XDP's, and what it takes is known from packets that the generator sends straight
// into one ("wire"). XDP on veth copies a frame that a socket sent, so there the
// stack has it first, in a softirq of its own; what that takes is known from a socket
// that sends into it, and into an interface that frees each frame at once ("sink").
//
// Contenders:
//
//	bare           XDP_TX of everything, the floor
//	hash           an XDP program that forwards from a BPF hash map, as others do
//	forward        the kernel's forwarding by a route, no IPVS
//	ipvs-4k        kernel IPVS in direct routing, 4,096 buckets, as Debian has it
//	ipvs-1M        the same with conn_tab_bits=20, with which all are compared
//	ulvs-xdp       ulvs's XDP plane in the driver: its program forwards connections'
//	               packets, and opens connections by what Go has decided ahead
//	ulvs-afpacket  ulvs's AF_PACKET plane alone
//
// Loads: established connections, one, ten thousand and a hundred thousand, drawn
// at random; and first packets of ever new connections (SYN): without persistence,
// with 300 s of it where each is of a new client, and of sixteen connections a
// client.
package kernel
