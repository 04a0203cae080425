package persist

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"strings"
)

// SIP is the name of the persistence engine that keeps the packets of one call
// together, whoever sends them through the same client network
// (net/netfilter/ipvs/ip_vs_pe_sip.c).
const SIP = "sip"

// KnownEngine reports whether there is a persistence engine of that name.
func KnownEngine(name string) bool { return name == SIP }

// maxEngineData is IP_VS_PEDATA_MAXLEN.
const maxEngineData = 255

// CallID finds the Call-ID of a SIP message; false if there is none that the
// kernel would take (get_callid; net/netfilter/nf_conntrack_sip.c,
// ct_sip_get_header and callid_len). The result lies in message.
func CallID(message []byte) (id []byte, ok bool) {
	for from := 0; from <= len(message); {
		at, n := callHeader(message, from)
		if at < 0 {
			return nil, false
		}
		if n > 0 {
			end := at + n
			if n > maxEngineData || end == len(message) || message[end] != '\r' && message[end] != '\n' {
				return nil, false
			}
			return message[at:end], true
		}
		from += at // a header without a value: the kernel goes on that much further
	}
	return nil, false
}

// callHeader finds the value of the next Call-ID header; at is -1 if there is
// none, and n is 0 if its value is none.
func callHeader(m []byte, from int) (at, n int) {
	for i := from; i < len(m); i++ {
		// Headers begin behind a line end: CR, LF or both.
		if m[i] != '\r' && m[i] != '\n' {
			continue
		}
		i = pastLineEnd(m, i)
		if i >= len(m) {
			return -1, 0
		}
		if m[i] == ' ' || m[i] == '\t' {
			continue
		}
		const long, compact = len("Call-Id"), len("i")
		switch {
		case len(m)-i >= long && strings.EqualFold(string(m[i:i+long]), "Call-Id"):
			i += long
		case len(m)-i > compact && (m[i] == 'i' || m[i] == 'I') && !isLetter(m[i+1]):
			i += compact
		default:
			continue
		}
		if i = skipSpace(m, i); i < 0 || i >= len(m) || m[i] != ':' {
			return -1, 0
		}
		if i++; i >= len(m) {
			return -1, 0
		}
		if i = skipSpace(m, i); i < 0 {
			return -1, 0
		}
		return i, callIDLen(m[i:])
	}
	return -1, 0
}

// callIDLen returns the length of a word, or of two with an @ between.
func callIDLen(b []byte) int {
	n := wordLen(b)
	if n == 0 || n == len(b) || b[n] != '@' {
		return n
	}
	domain := wordLen(b[n+1:])
	if domain == 0 {
		return 0
	}
	return n + 1 + domain
}

// wordLen counts the characters of RFC 3261's word.
func wordLen(b []byte) int {
	n := 0
	for n < len(b) && (isLetter(b[n]) || b[n] >= '0' && b[n] <= '9' || bytes.IndexByte([]byte("-.!%*_+`'~()<>:\\\"/[]?{}"), b[n]) >= 0) {
		n++
	}
	return n
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

// pastLineEnd returns the index behind the line end at m[i].
func pastLineEnd(m []byte, i int) int {
	i++
	if i < len(m) && m[i-1] == '\r' && m[i] == '\n' {
		i++
	}
	return i
}

// skipSpace skips blanks, and one line end that is followed by a blank
// (sip_skip_whitespace); -1 if the header ends there.
func skipSpace(m []byte, i int) int {
	for i < len(m) && m[i] == ' ' {
		i++
	}
	if i >= len(m) || m[i] != '\r' && m[i] != '\n' {
		return i
	}
	i = pastLineEnd(m, i)
	if i >= len(m) || m[i] != ' ' && m[i] != '\t' {
		return -1
	}
	for i < len(m) && (m[i] == ' ' || m[i] == '\t') {
		i++
	}
	return i
}

// With returns the key of the templates that an engine makes for a key and the data
// that it found in the packet.
func (k Key) With(data []byte) Key {
	var b [40 + maxEngineData]byte
	for i, w := range k {
		binary.NativeEndian.PutUint64(b[i*8:], w)
	}
	n := copy(b[40:], data)
	sum := sha256.Sum256(b[:40+n])
	var out Key
	for i, word := range []int{0, 2, 3, 4} {
		out[word] = binary.NativeEndian.Uint64(sum[i*8:])
	}
	// The bytes behind the family are 0 in all other keys.
	binary.NativeEndian.PutUint64(b[:8], k[1])
	b[6] = 1
	out[1] = binary.NativeEndian.Uint64(b[:8])
	return out
}

// engine reports whether With made the key, and anonymous is what can be told of
// one whose description is lost.
func (k *Key) engine() bool {
	var w [8]byte
	binary.NativeEndian.PutUint64(w[:], k[1])
	return w[6] == 1
}

func (k *Key) anonymous() Key {
	var w [8]byte
	binary.NativeEndian.PutUint64(w[:], k[1])
	return Key{1: binary.NativeEndian.Uint64([]byte{0, 0, w[2], w[3], w[4], w[5], 0, 0})}
}

// engineTemplate is what a template's own key does not say when an engine made
// it.
type engineTemplate struct {
	key          Key
	engine, data string
}

// Describe keeps what a template of an engine is about, for listing: the key
// without the engine's data, the engine and the data.
func (t *Table) Describe(id ID, k Key, engine string, data []byte) {
	if t.described == nil {
		t.described = map[ID]engineTemplate{}
	}
	t.described[id] = engineTemplate{k, engine, string(data)}
}

// Described reports whether it is known what a template of an engine is about.
// That of an adopted table is not, until the engine's next packet.
func (t *Table) Described(id ID) bool { return t.described[id].engine != "" }

// Engine returns what Describe was given, or nothing.
func (t *Table) Engine(id ID) (engine, data string) {
	d := t.described[id]
	return d.engine, d.data
}
