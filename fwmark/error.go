package fwmark

import "strconv"

// Error says why a command or a text of rules was refused. Where iptables
// refuses it too, Text is iptables' own.
type Error struct {
	Program string // "iptables", "ip6tables", "iptables-restore", "ip6tables-restore"
	Text    string // one line
	Rule    string // what was refused, quoted as iptables-save would; "" if that adds nothing
	Line    int    // the line of a text to restore, from 1; 0 for a command
	Usage   bool   // the words are wrong (iptables exits with 2), not the table's state (1)
}

// Error is one line, with the rule's text where the words are wrong.
func (e *Error) Error() string {
	s := e.Program + ": "
	if e.Line > 0 {
		s += "line " + strconv.Itoa(e.Line) + ": "
	}
	s += e.Text
	if e.Rule != "" {
		s += ", in: " + e.Rule
	}
	return s
}

// wrong is a mistake in the words of a command.
func wrong(text string) error { return &Error{Text: text, Usage: true} }

// failed is a command that the table does not allow.
func failed(text string) error { return &Error{Text: text} }

// iptables' texts that depend on the table's state (libiptc/libiptc.c,
// iptables/nft.c: the tables behind iptc_strerror and nft_strerror).
const (
	textNoRule      = "Bad rule (does a matching rule exist in that chain?)."
	textNoChain     = "No chain/target/match by that name."
	textDeletion    = "Index of deletion too big."
	textInsertion   = "Index of insertion too big."
	textReplacement = "Index of replacement too big."
	textPolicy      = "Bad policy name. Run `dmesg' for more information."
	textBuiltin     = "Bad built-in chain name."
	textChainExists = "Chain already exists."
	textFileExists  = "File exists."
	textTooMany     = "Too many rules."
)
