package ipvsadm

import "strings"

// optionID names an option whatever way it was spelled. IDs above 0xff have no
// short form.
type optionID uint16

// arity says whether an option takes a value.
type arity uint8

const (
	noValue arity = iota
	needsValue
	mayHaveValue // the next word, unless it begins with a dash
)

// option is one line of an option table.
type option struct {
	id    optionID
	long  string
	short byte // 0: none
	arity arity
}

// value is an option's value; an option may be given without one, or with an
// empty one.
type value struct {
	text  string
	given bool
}

// scanError is what popt finds wrong with a word; its text is popt's.
type scanError string

func (e scanError) Error() string { return string(e) }

const (
	errUnknownOption scanError = "unknown option"
	errMissingValue  scanError = "missing argument"
	errNoValueTaken  scanError = "option does not take an argument"
)

// scanner walks a command line as popt 1.19 does (poptGetNextOpt): long options
// in full only, with a value after "=" or in the next word; short ones in
// bundles, a value after the letter, after "=", or in the next word; words that
// are no options are kept for later, wherever they stand; "--" ends options.
//
// Two oddities of popt are left out: its expansion of "!#:+" inside values, and
// the environment variable POSIXLY_CORRECT.
type scanner struct {
	table []option
	args  []string // args[0] is the program's name and not looked at
	next  int
	// bundle is what is left of a word of short options.
	bundle   string
	leftover []string
	ended    bool // "--" was seen
}

func newScanner(table []option, args []string) *scanner {
	return &scanner{table: table, args: args, next: min(1, len(args))}
}

// scan returns the next option. more is false at the line's end.
func (s *scanner) scan() (id optionID, v value, more bool, err error) {
	var opt *option
	if s.bundle == "" {
		var inline value
		opt, inline, more, err = s.word()
		if !more || err != nil {
			return 0, value{}, more, err
		}
		if opt != nil {
			v, err = s.valueOf(opt, inline)
			return opt.id, v, true, err
		}
	}
	opt = s.short(s.bundle[0])
	rest := s.bundle[1:]
	s.bundle = ""
	if opt == nil {
		return 0, value{}, true, errUnknownOption
	}
	var inline value
	switch {
	case strings.HasPrefix(rest, "="):
		inline = value{rest[1:], true}
	case rest != "" && opt.arity != noValue:
		inline = value{rest, true}
	default:
		s.bundle = rest
	}
	v, err = s.valueOf(opt, inline)
	return opt.id, v, true, err
}

// word moves to the next word that is an option. It returns a long option with
// its inline value, or no option when it has filled the bundle.
func (s *scanner) word() (opt *option, inline value, more bool, err error) {
	for s.next < len(s.args) {
		w := s.args[s.next]
		s.next++
		if s.ended || len(w) < 2 || w[0] != '-' {
			s.leftover = append(s.leftover, w)
			continue
		}
		if w == "--" {
			s.ended = true
			continue
		}
		if w[1] != '-' {
			s.bundle = w[1:]
			return nil, value{}, true, nil
		}
		name, text, given := strings.Cut(w[2:], "=")
		for i := range s.table {
			if s.table[i].long == name {
				return &s.table[i], value{text, given}, true, nil
			}
		}
		return nil, value{}, true, errUnknownOption
	}
	return nil, value{}, false, nil
}

func (s *scanner) short(letter byte) *option {
	for i := range s.table {
		if s.table[i].short != 0 && s.table[i].short == letter {
			return &s.table[i]
		}
	}
	return nil
}

// valueOf is the inline value or the next word, as the option's arity has it.
func (s *scanner) valueOf(opt *option, inline value) (value, error) {
	if opt.arity == noValue {
		if inline.given {
			return value{}, errNoValueTaken
		}
		return value{}, nil
	}
	if inline.given {
		return inline, nil
	}
	if s.next == len(s.args) {
		if opt.arity == mayHaveValue {
			return value{}, nil
		}
		return value{}, errMissingValue
	}
	w := s.args[s.next]
	if opt.arity == mayHaveValue && strings.HasPrefix(w, "-") {
		return value{}, nil
	}
	s.next++
	return value{w, true}, nil
}

// blamed is the word that popt names in an error: the last one that it took.
func (s *scanner) blamed() string {
	if s.next == 0 || s.next > len(s.args) {
		return ""
	}
	return s.args[s.next-1]
}

// argument takes the first of the words that were no options.
func (s *scanner) argument() (string, bool) {
	if len(s.leftover) == 0 {
		return "", false
	}
	w := s.leftover[0]
	s.leftover = s.leftover[1:]
	return w, true
}
