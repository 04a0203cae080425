//go:build !race

package shtab

// On amd64 stores become visible in the order in which they were made, so that an
// ordinary one publishes; Go's atomic store is a locked exchange, which waits for all
// loads and stores before it, cache misses included. The functions are not inlined, so
// that the compiler neither joins nor moves stores.

//go:noinline
func store64(p *uint64, v uint64) { *p = v }

//go:noinline
func store32(p *uint32, v uint32) { *p = v }
