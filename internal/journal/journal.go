// Package journal keeps a list of records in a block of memory that outlives the
// process: what was appended when a process ended, at whatever point, is there for
// the next one.
//
// The block has two halves. Records are appended to one of them until it is full;
// then the owner writes what still counts into the other, which takes over when
// that is complete. Where it would soon be full again, the owner writes it into a larger
// block.
package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A half begins with a header of three words: magic, epoch, and the bytes of
// records behind it. The half with the greater epoch counts. A record is its
// length, 4 bytes, and itself.
const (
	magic      = 0x6c6e_726a_6c75_7631 // "1vuljrnl"
	headerSize = 24
	lengthSize = 4
)

// ErrFull says that a half has no room for a record.
var ErrFull = errors.New("the journal of commands is full")

// ErrForeign says that memory holds no journal.
var ErrForeign = errors.New("this memory holds no journal of commands")

// Journal appends to a block. Make it with New or Open. It is not safe for
// concurrent use.
type Journal struct {
	halves [2][]byte
	active int
}

// New makes an empty journal of a block of at least 1 KiB.
func New(block []byte) (*Journal, error) {
	j, err := over(block)
	if err != nil {
		return nil, err
	}
	clear(j.halves[0][:headerSize])
	clear(j.halves[1][:headerSize])
	j.begin(0)
	j.commit(0, 1)
	return j, nil
}

// Open takes over the journal in a block, and returns its records, which are views
// of the block until the next Append. The error wraps ErrForeign.
func Open(block []byte) (*Journal, [][]byte, error) {
	j, err := over(block)
	if err != nil {
		return nil, nil, err
	}
	if j.epoch(1) > j.epoch(0) {
		j.active = 1
	}
	if j.epoch(j.active) == 0 {
		return nil, nil, ErrForeign
	}
	records, err := j.records()
	return j, records, err
}

func over(block []byte) (*Journal, error) {
	if len(block) < 1024 {
		return nil, fmt.Errorf("%d bytes of memory are too few for a journal", len(block))
	}
	n := len(block) / 2 &^ 7
	return &Journal{halves: [2][]byte{block[:n], block[n : 2*n]}}, nil
}

// epoch is 0 for a half that does not count.
func (j *Journal) epoch(half int) uint64 {
	h := j.halves[half]
	if binary.NativeEndian.Uint64(h) != magic {
		return 0
	}
	return binary.NativeEndian.Uint64(h[8:])
}

func (j *Journal) used(half int) int { return int(binary.NativeEndian.Uint64(j.halves[half][16:])) }

func (j *Journal) setUsed(half, n int) {
	binary.NativeEndian.PutUint64(j.halves[half][16:], uint64(n))
}

// begin empties a half, which then does not count; commit makes it the one that
// does.
func (j *Journal) begin(half int) {
	binary.NativeEndian.PutUint64(j.halves[half][8:], 0)
	j.setUsed(half, 0)
}

func (j *Journal) commit(half int, epoch uint64) {
	binary.NativeEndian.PutUint64(j.halves[half], magic)
	binary.NativeEndian.PutUint64(j.halves[half][8:], epoch)
	j.active = half
}

func (j *Journal) records() (list [][]byte, err error) {
	used := j.used(j.active)
	h := j.halves[j.active][headerSize:]
	if used < 0 || used > len(h) {
		return nil, fmt.Errorf("%w: %d bytes of records in %d", ErrForeign, used, len(h))
	}
	for h = h[:used]; len(h) > 0; {
		if len(h) < lengthSize {
			return nil, fmt.Errorf("%w: %d bytes behind the last record", ErrForeign, len(h))
		}
		n := int(binary.NativeEndian.Uint32(h))
		if n > len(h)-lengthSize {
			return nil, fmt.Errorf("%w: a record of %d bytes in %d", ErrForeign, n, len(h)-lengthSize)
		}
		list = append(list, h[lengthSize:lengthSize+n])
		h = h[lengthSize+n:]
	}
	return list, nil
}

// Append puts a record behind the others. It is kept when Append returns. The
// error is ErrFull.
func (j *Journal) Append(record []byte) error { return j.put(j.active, record) }

func (j *Journal) put(half int, record []byte) error {
	used := j.used(half)
	room := j.halves[half][headerSize+used:]
	if len(record)+lengthSize > len(room) {
		return ErrFull
	}
	binary.NativeEndian.PutUint32(room, uint32(len(record)))
	copy(room[lengthSize:], record)
	j.setUsed(half, used+lengthSize+len(record)) // last: until then, the record is not there
	return nil
}

// Rewrite puts other records in the place of all. Until it has returned nil, those
// before count. The error is ErrFull.
func (j *Journal) Rewrite(records [][]byte) error {
	other := 1 - j.active
	epoch := j.epoch(j.active) + 1
	j.begin(other)
	for _, r := range records {
		if err := j.put(other, r); err != nil {
			return err
		}
	}
	j.commit(other, epoch)
	return nil
}

// Size is how many bytes of records there are, and Room how many there can be.
func (j *Journal) Size() int { return j.used(j.active) }
func (j *Journal) Room() int { return len(j.halves[j.active]) - headerSize }

// Larger returns the size of a block that suits the records: 0 if the present one does, as
// they leave half of it free. What is rewritten is then small beside what was appended
// since the last time.
func (j *Journal) Larger(records [][]byte) (size int) {
	need := 0
	for _, r := range records {
		need += lengthSize + len(r)
	}
	if 2*need <= j.Room() {
		return 0
	}
	for size = 2 * (headerSize + j.Room()); size < 4*(headerSize+need); {
		size *= 2
	}
	return size
}
