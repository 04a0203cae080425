package ipvsadm

import (
	"bufio"
	"io"
	"strings"

	"github.com/ulvs/ulvs"
)

const (
	// inputSize is how much of the input is looked at ahead.
	inputSize = 64 << 10
	// maxBatch is how many lines are one batch at most.
	maxBatch = 1 << 17
)

// patient is an input that has something done before it has to be waited for.
type patient struct {
	io.Reader
	before func() (proceed bool)
}

// Read implements io.Reader. Where what is done before ends everything, so does the input.
func (p *patient) Read(b []byte) (int, error) {
	if !ready(p.Reader) && !p.before() {
		return 0, io.EOF
	}
	return p.Reader.Read(b)
}

// ready reports whether an input need not be waited for: it says so, or is memory.
func ready(in io.Reader) bool {
	switch in := in.(type) {
	case interface{ Ready() bool }:
		return in.Ready()
	case interface{ Len() int }:
		return true
	}
	return false
}

// restore carries out the lines of standard input: those that are there as one batch, and
// what is typed or comes slowly when it comes. The code is the last line's, unless one ends
// everything.
func (r *runner) restore(program string) *exit {
	for r.over == nil {
		args, ok := readLine(r.in, program)
		if !ok || r.over != nil {
			break
		}
		if len(args) < 2 {
			continue
		}
		l, e := r.read(args)
		if e == nil && changes[l.verb] != "" {
			if r.waiting = append(r.waiting, l); len(r.waiting) == maxBatch {
				r.carryOutWaiting()
			}
			continue
		}
		if r.carryOutWaiting(); r.over != nil {
			break
		}
		if e == nil {
			e = r.carryOut(l, args, true)
		}
		r.answer(e)
	}
	if r.over == nil {
		r.carryOutWaiting()
	}
	if r.over != nil {
		return r.over
	}
	return r.last
}

// answer prints what a line came to.
func (r *runner) answer(e *exit) {
	if e != nil && !e.lineOnly {
		r.over = e
		return
	}
	r.last = nil
	if code := r.end(e); code != exitOK {
		r.last = &exit{code: code}
	}
}

// beforeWait carries out what is waiting before the input is waited for.
func (r *runner) beforeWait() bool {
	r.carryOutWaiting()
	return r.over == nil
}

// carryOutWaiting carries out the lines that wait for it.
func (r *runner) carryOutWaiting() {
	lines := r.waiting
	r.waiting = nil
	if len(lines) <= 1 {
		for _, l := range lines {
			c := l.change()
			r.answer(r.changed(l, c.Apply(r.control)))
		}
		return
	}
	batch := make([]ulvs.Change, len(lines))
	for i, l := range lines {
		batch[i] = l.change()
	}
	answered := 0
	err := r.control.Batch(batch, func(n int, err error) bool {
		answered = n + 1
		r.answer(r.changed(lines[n], err))
		return r.over == nil
	})
	if err != nil && r.over == nil {
		// Whatever it is, it is not about one line.
		e := refused(lines[min(answered, len(lines)-1)].verb, err, &exit{code: exitError})
		r.answer(e)
	}
}

// Reader reads lines for -R without carrying them out. Make it with NewReader. It is for
// one goroutine at a time.
type Reader struct{ names Names }

// NewReader makes a Reader; names may be nil, for those of the system.
func NewReader(names Names) *Reader {
	if names == nil {
		names = NewSystemNames()
	}
	return &Reader{names}
}

// Read returns what a line changes, or says what is wrong with it; nil and "" for a line
// without words. Refused is what -R says if that is refused.
func (rd *Reader) Read(text string) (change *ulvs.Change, refused func(error) string, wrong string) {
	r := &runner{names: rd.names}
	args, ok := readLine(bufio.NewReader(strings.NewReader(text+"\n")), "ipvsadm")
	if !ok || len(args) < 2 {
		return nil, nil, ""
	}
	l, e := r.read(args)
	switch {
	case e != nil:
		return nil, nil, strings.TrimSpace(e.out + e.text)
	case changes[l.verb] == "":
		return nil, nil, "it changes nothing that is kept"
	}
	c := l.change()
	return &c, func(err error) string { return strings.TrimSpace(r.changed(l, err).text) }, ""
}
