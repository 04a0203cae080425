package shtab

import (
	"fmt"
	"sync/atomic"
)

// Count returns how many entries the table in block has, which is another process's, and
// how many ticks a second its stamps count. It writes nothing, and is about right while
// others write. The error wraps ErrLayout.
func Count(block []byte) (entries int, hz uint32, err error) {
	if len(block) < HeaderSize {
		return 0, 0, fmt.Errorf("%w: it has only %d bytes", ErrLayout, len(block))
	}
	h, _, err := layOver(block, 0)
	if err != nil {
		return 0, 0, err
	}
	if h.magic != magic || h.slot != SlotSize || h.hz == 0 || int(h.slots) > (len(block)-HeaderSize)/SlotSize {
		return 0, 0, fmt.Errorf("%w: it has %d slots of %d bytes in %d", ErrLayout, h.slots, h.slot, len(block))
	}
	_, slots, err := layOver(block, h.slots)
	if err != nil {
		return 0, 0, err
	}
	for i := range slots {
		if int64(atomic.LoadUint64(&slots[i].word)) < 0 { // it has a tag
			entries++
		}
	}
	return entries, h.hz, nil
}
