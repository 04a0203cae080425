package afpacket

import "sync/atomic"

// counters are the plane's. Each is added to at most once a batch, or when
// something went wrong.
type counters struct {
	rxFrames, rxRingLost, rxTruncated, rxNotOurs, rxCopies atomic.Uint64
	rxCut, rxSYNLost                                       atomic.Uint64
	passed, dropped, parked                                atomic.Uint64
	txFrames, txRingFull, txDown, txMalformed              atomic.Uint64
	txTooBig, txNoHop, txNoSender                          atomic.Uint64
}

func (c *counters) all() map[string]uint64 {
	return map[string]uint64{
		"rx_frames":    c.rxFrames.Load(),    // handed to the handler, but for rx_copies
		"rx_ring_lost": c.rxRingLost.Load(),  // by the kernel: receive ring full
		"rx_syn_lost":  c.rxSYNLost.Load(),   // by the kernel: ring of what opens connections full
		"rx_truncated": c.rxTruncated.Load(), // larger than a slot, and no room in the socket's queue
		"rx_cut":       c.rxCut.Load(),       // longer than 64 KiB (BIG TCP), cut into several
		"rx_copies":    c.rxCopies.Load(),    // ARP and neighbour discovery that the host has too, behind a program
		"rx_not_ours":  c.rxNotOurs.Load(),   // broadcast and multicast that asks for nothing
		"passed":       c.passed.Load(),
		"dropped":      c.dropped.Load(),
		"parked":       c.parked.Load(),
		"tx_frames":    c.txFrames.Load(),
		"tx_ring_full": c.txRingFull.Load(),  // lost: the interface did not take them in time
		"tx_down":      c.txDown.Load(),      // lost: the interface is down or gone
		"tx_malformed": c.txMalformed.Load(), // lost: the kernel refused the frame or its offload
		"tx_too_big":   c.txTooBig.Load(),    // lost: larger than the MTU and not to be segmented
		"tx_no_hop":    c.txNoHop.Load(),     // lost: the handler sent to a hop that is the host itself
		"tx_no_sender": c.txNoSender.Load(),  // lost: no socket could be opened on the interface
	}
}
