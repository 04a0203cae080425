package ratelimit

// SetRandom has f draw the numbers from 0 to n-1, and Place is where the bucket of a
// message's client is.
func (r *Limiter) SetRandom(f func(n uint32) uint32) { r.random = f }
func (r *Limiter) Place(m *Message) uint64           { return r.place(m) }
