package ipvsnl

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A request is written as "NEW_DEST flags=0x5 SERVICE{1:0200 5:0a000000} DEST{11:0200}": a command,
// the message's flags, attributes by name or number, each with its bytes or with others inside.
// An answer is written likewise.

var commandNames = []string{"UNSPEC", "NEW_SERVICE", "SET_SERVICE", "DEL_SERVICE", "GET_SERVICE", "NEW_DEST",
	"SET_DEST", "DEL_DEST", "GET_DEST", "NEW_DAEMON", "DEL_DAEMON", "GET_DAEMON", "SET_CONFIG", "GET_CONFIG",
	"SET_INFO", "GET_INFO", "ZERO", "FLUSH"}

var attrNames = map[string]int{"SERVICE": attrService, "DEST": attrDest, "DAEMON": attrDaemon}

// written reads a request.
func written(t testing.TB, line string) []byte {
	t.Helper()
	words := strings.Fields(strings.NewReplacer("{", " { ", "}", " } ").Replace(line))
	command := -1
	for i, name := range commandNames {
		if name == words[0] {
			command = i
		}
	}
	if command < 0 {
		n, err := strconv.Atoi(words[0])
		if err != nil {
			t.Fatal(err)
		}
		command = n
	}
	flags, err := strconv.ParseUint(strings.TrimPrefix(words[1], "flags=0x"), 16, 16)
	if err != nil {
		t.Fatal(err)
	}
	rest := words[2:]
	a := answering{}
	return a.append(nil, FamilyID, uint16(flags), 7, genl(uint8(command), attributesOf(t, &rest)))
}

func attributesOf(t testing.TB, words *[]string) (b []byte) {
	t.Helper()
	for len(*words) > 0 {
		word := (*words)[0]
		*words = (*words)[1:]
		if word == "}" {
			return b
		}
		name, value, has := strings.Cut(word, ":")
		typ, known := attrNames[name]
		if !known {
			n, err := strconv.Atoi(name)
			if err != nil {
				t.Fatal(err)
			}
			typ = n
		}
		content, err := hex.DecodeString(value)
		if err != nil {
			t.Fatal(err)
		}
		if !has {
			*words = (*words)[1:] // {
			content = attributesOf(t, words)
		}
		b = order.AppendUint16(b, uint16(attrHeader+len(content)))
		b = append(order.AppendUint16(b, uint16(typ)), content...)
		b = append(b, make([]byte, align(len(b))-len(b))...)
	}
	return b
}

// shown writes answers, a message a line.
func shown(datagrams [][]byte) string {
	var text strings.Builder
	for _, d := range datagrams {
		for len(d) >= unix.NLMSG_HDRLEN {
			r := requestOf(d)
			r.raw = d[:r.length]
			fmt.Fprintf(&text, "  %s\n", message(r))
			d = d[min(align(r.length), len(d)):]
		}
	}
	return text.String()
}

func message(r request) string {
	body := r.raw[unix.NLMSG_HDRLEN:]
	switch r.kind {
	case unix.NLMSG_DONE:
		return fmt.Sprintf("done flags=%#x %x", r.flags, body)
	case unix.NLMSG_ERROR:
		errno := unix.Errno(-int32(order.Uint32(body)))
		name := "ok"
		if errno != 0 {
			name = unix.ErrnoName(errno)
		}
		return fmt.Sprintf("%s flags=%#x, %d bytes of the request", name, r.flags, len(body)-4)
	case unix.GENL_ID_CTRL:
		return fmt.Sprintf("controller flags=%#x %x", r.flags, body)
	}
	name := commandNames[r.command()]
	return fmt.Sprintf("%s flags=%#x%s", name, r.flags, fieldsOf(r.attributes(), 0))
}

// fieldsOf writes attributes; those of level 0 hold others, and so do the counters below.
func fieldsOf(b []byte, level int) string {
	var text strings.Builder
	for len(b) >= attrHeader {
		length, typ := int(order.Uint16(b)), int(order.Uint16(b[2:]))
		value := b[attrHeader:length]
		switch {
		case level == 0 && typ <= attrDaemon && len(value) > 8:
			for name, n := range attrNames {
				if n == typ {
					fmt.Fprintf(&text, " %s{%s }", name, fieldsOf(value, typ))
				}
			}
		case level > 0 && (typ == svcStats || typ == svcStats64):
			fmt.Fprintf(&text, " %d{%s }", typ, fieldsOf(value, -1))
		default:
			fmt.Fprintf(&text, " %d:%x", typ, value)
		}
		b = b[min(align(length), len(b)):]
	}
	return text.String()
}
