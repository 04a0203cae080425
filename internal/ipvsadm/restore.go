package ipvsadm

import (
	"bufio"
	"strings"
)

// maxToken is the longest word that the original reads in one piece.
const maxToken = 4096

// readLine reads the words of one line for -R as the original's config_stream.c
// does, and puts the program's name before them. Words are split at blanks only:
// there are no quotes and no comments. The word "ipvsadm" is dropped wherever it
// stands, so that a shell script of commands is a rules file too.
//
// ok is false at the end of the input. A last line without a newline counts,
// unless two or more blanks end it: that is the original's doing.
func readLine(in *bufio.Reader, program string) (args []string, ok bool) {
	args = []string{program}
	words := 0
	tail := byte(' ') // the blank after the last word
	for {
		c, err := in.ReadByte()
		if err != nil {
			return args, words > 0
		}
		in.UnreadByte()
		if isBlank(c) {
			end, eof := skipBlanks(in)
			if eof {
				return nil, false
			}
			if end {
				return args, true
			}
			continue
		}
		var token string
		if token, tail = readToken(in, tail); token != "ipvsadm" {
			args = append(args, token)
			words++
		}
		if tail == '\n' {
			return args, true
		}
	}
}

// skipBlanks reads up to the next word, or past the line's end.
func skipBlanks(in *bufio.Reader) (lineEnd, eof bool) {
	for {
		c, err := in.ReadByte()
		switch {
		case err != nil:
			return false, true
		case c == '\n':
			return true, false
		case !isBlank(c):
			in.UnreadByte()
			return false, false
		}
	}
}

// readToken reads a word and one blank after it. A word that ends otherwise
// leaves the tail as it was.
func readToken(in *bufio.Reader, tail byte) (string, byte) {
	var token strings.Builder
	for token.Len() < maxToken {
		c, err := in.ReadByte()
		if err != nil {
			break
		}
		if isBlank(c) {
			in.UnreadByte()
			break
		}
		token.WriteByte(c)
	}
	if c, err := in.ReadByte(); err == nil {
		if isBlank(c) {
			tail = c
		} else {
			in.UnreadByte()
		}
	}
	word, _, _ := strings.Cut(token.String(), "\x00") // a C string
	return word, tail
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }
