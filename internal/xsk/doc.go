// Package xsk has AF_XDP sockets: frames that an XDP program redirected to
// user space, and frames that user space sends past the host's stack, both in
// memory that the kernel and this process share. It knows nothing of what is
// in them.
//
// A Umem is that memory, cut into chunks of one frame each. A Socket is bound
// to one queue of one interface and has four rings, as
// Documentation/networking/af_xdp.rst describes them: chunks go into the fill
// ring, come back with frames in the receive ring, are sent by the transmit
// ring and come back in the completion ring. All sockets of a Umem share its
// chunks, so that a frame that one received is sent by another without a copy.
//
// At any time a chunk has exactly one owner:
//
//   - the Umem's list of free chunks;
//   - a socket, between its fill ring and its receive ring;
//   - the caller, as a Packet, from Receive until Transmit or Release;
//   - a socket, between its transmit ring and its completion ring;
//   - a queue whose driver may not be done with what a closed socket left there
//     (Socket.Close).
//
// It needs Linux 5.15 or later, and CAP_NET_RAW in the network namespace.
package xsk
