package control

import "time"

// SetAliveEach has servers that are made from now on show more often that they are alive.
func SetAliveEach(d time.Duration) (undo func()) {
	was := aliveEach
	aliveEach = d
	return func() { aliveEach = was }
}

// SetStalled has servers wait less long for a client that does not read.
func SetStalled(d time.Duration) (undo func()) {
	was := stalled
	stalled = d
	return func() { stalled = was }
}
