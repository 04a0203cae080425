package afpacket

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs/dataplane"
)

// openTap finds out by which interface frames come, and opens what sends them back to the host by
// that.
func (r *receiver) openTap(l dataplane.Link) error {
	if r.p.opt.Tap == nil {
		return nil
	}
	at, err := r.p.opt.Tap(l.Index)
	if err != nil || at == 0 {
		return err
	}
	s, err := newSender(at, &r.p.c)
	if err != nil {
		return err
	}
	for _, fd := range []int{s.fd, s.plainFD} {
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, l.Index)
		}
	}
	if err != nil {
		s.close()
		return fmt.Errorf("packets of %s cannot be given back to the host: %w", l.Name, err)
	}
	r.tap, r.bound = s, at
	return nil
}

func (r *receiver) closeTap() {
	if r.tap != nil {
		r.tap.close()
	}
}

// count counts frames that the handler gets, copies apart.
func (r *receiver) count(frames []dataplane.Frame) {
	copies := 0
	if r.tap != nil {
		for i := range frames {
			if copied(frames[i].Data) {
				copies++
			}
		}
	}
	if copies > 0 {
		r.p.c.rxCopies.Add(uint64(copies))
	}
	r.p.c.rxFrames.Add(uint64(len(frames) - copies))
}

// giveBack gives a frame to the host as it came, at its own interface. What came as a copy the host has.
func (r *receiver) giveBack(f *dataplane.Frame) {
	if copied(f.Data) {
		return
	}
	r.tap.mu.Lock()
	r.tap.put(f.Data, f.Offload, 0, nil)
	r.tap.mu.Unlock()
	r.touch(r.tap)
}

// copied reports whether a frame is ARP, or neighbour discovery that says where an address is: the program
// behind which this is gives it to the host, and copies of it to us (dataplane/xdp/program, pass).
func copied(frame []byte) bool {
	arp, discovery := asks(frame)
	return arp || discovery != 0
}

// tapOf returns what sends frames of an interface back to the host, or nil.
func (rs *receivers) tapOf(ifindex int) *sender {
	for _, r := range rs.all() {
		if r.ifindex == ifindex && r.tap != nil {
			return r.tap
		}
	}
	return nil
}

// hidden reports whether an interface's frames come by another one, and nothing need be done for the host not to
// see them.
func (rs *receivers) hidden(ifindex int) bool { return rs.tapOf(ifindex) != nil && !rs.p.opt.Withhold }
