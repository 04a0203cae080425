package ipvsadm

import (
	"encoding/binary"
	"net/netip"

	"github.com/ulvs/ulvs"
)

// The original compares by subtracting unsigned numbers into an int, so that
// addresses more than 2^31 apart come out the wrong way round: 192.168.10.101
// stands before 10.0.0.1. The order is then not even transitive, and the outcome
// depends on the sorting algorithm: glibc's qsort, which is a merge sort.

// wrapped is a-b in C's int.
func wrapped(a, b uint32) int32 { return int32(a - b) }

// compareServices is libipvs's ipvs_cmp_services.
func compareServices(a, b *ulvs.ServiceStatus) int32 {
	if d := wrapped(a.Mark, b.Mark); d != 0 {
		return d
	}
	if a.Is6() != b.Is6() {
		if b.Is6() {
			return -1
		}
		return 1
	}
	if a.Mark != 0 {
		return 0
	}
	if d := int32(a.Protocol) - int32(b.Protocol); d != 0 {
		return d
	}
	return compareNames(netip.AddrPortFrom(a.Addr, a.Port), netip.AddrPortFrom(b.Addr, b.Port))
}

// compareDestinations is libipvs's ipvs_cmp_dests.
func compareDestinations(a, b *ulvs.DestinationStatus) int32 {
	return compareNames(a.AddrPort(), b.AddrPort())
}

// compareNames compares as many words as a's family has; an IPv4 address stands
// in the first of four words.
func compareNames(a, b netip.AddrPort) int32 {
	wa, wb := addrWords(a.Addr()), addrWords(b.Addr())
	n := 1
	if a.Addr().Is6() {
		n = len(wa)
	}
	for i := range n {
		if d := wrapped(wa[i], wb[i]); d != 0 {
			return d
		}
	}
	return int32(a.Port()) - int32(b.Port())
}

func addrWords(a netip.Addr) (w [4]uint32) {
	for i, b := 0, a.AsSlice(); len(b) >= 4; i, b = i+1, b[4:] {
		w[i] = binary.BigEndian.Uint32(b)
	}
	return w
}

// mergeSort sorts as glibc's qsort does: halves of n/2 and the rest, each sorted
// and then merged, the first half's element first when they are equal.
func mergeSort[T any](s []T, compare func(a, b *T) int32) {
	if len(s) < 2 {
		return
	}
	left, right := s[:len(s)/2], s[len(s)/2:]
	mergeSort(left, compare)
	mergeSort(right, compare)
	merged := make([]T, 0, len(s))
	for len(left) > 0 && len(right) > 0 {
		if compare(&left[0], &right[0]) <= 0 {
			merged, left = append(merged, left[0]), left[1:]
		} else {
			merged, right = append(merged, right[0]), right[1:]
		}
	}
	merged = append(append(merged, left...), right...)
	copy(s, merged)
}
