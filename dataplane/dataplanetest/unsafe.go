package dataplanetest

import "unsafe"

// aligned returns memory that starts on a page, as planes give it.
func aligned(size int) []byte {
	const page = 4096
	b := make([]byte, size+page)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) % page)
	return b[skip : skip+size]
}
