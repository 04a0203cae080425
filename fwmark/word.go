package fwmark

import "strings"

// plain are the characters of a word that iptables prints without quotes
// (libxtables, xtables_save_string).
func plain(c byte) bool {
	return c == '_' || c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// quote is a free text as iptables prints it after an option.
func quote(s string) string {
	safe := s != ""
	for i := range len(s) {
		safe = safe && plain(s[i])
	}
	if safe {
		return s
	}
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' || s[i] == '\'' {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	b.WriteByte('"')
	return b.String()
}

// join is a command's words for an error message: quoted only where split
// would not give them back.
func join(words []string) string {
	var b strings.Builder
	for i, w := range words {
		if i > 0 {
			b.WriteByte(' ')
		}
		if w == "" || strings.ContainsAny(w, " \t\r\n\"") {
			w = quote(w)
		}
		b.WriteString(w)
	}
	return b.String()
}

// split cuts a line of iptables-save's text into words, as iptables-restore
// does: only double quotes quote, a backslash escapes within them only, and a
// closing quote ends the word.
func split(line string) []string {
	var words []string
	var word []byte
	open, escaped, quoted := false, false, false
	end := func() {
		if len(word) > 0 || quoted {
			words = append(words, string(word))
		}
		word, quoted = word[:0], false
	}
	for i := range len(line) {
		c := line[i]
		switch {
		case escaped:
			word, escaped = append(word, c), false
		case open && c == '\\':
			escaped = true
		case open && c == '"':
			open = false
			end()
		case open:
			word = append(word, c)
		case c == '"':
			open, quoted = true, true
		case c == ' ' || c == '\t' || c == '\n':
			end()
		default:
			word = append(word, c)
		}
	}
	end()
	return words
}
