package persist

// list are templates that control nothing, in the order in which they came to that, as
// their numbers and 1.
type list struct {
	oldest, newest ID
	n              int
}

// answered is set in a record's uses: not in the state, which lies in another line of memory.
const answered = 1 << 31

func (r *record) controls() uint32 { return r.uses &^ answered }

// HalfOpen returns how many templates control connections, none of which any client has
// answered.
func (t *Table) HalfOpen() int {
	t.lruFlush()
	return t.unanswered - t.idle[0].n
}

// answer says that a client has answered by a connection that a template gave, while it
// controls that.
func (t *Table) answer(id ID) {
	if r := t.Record(id); r.uses&answered == 0 {
		r.uses |= answered
		t.unanswered--
	}
}

// Answer says that a client has answered by a connection that a template controls.
func (t *Table) Answer(id ID) { t.answer(id) }

// idleList returns the list that a template is on while it controls nothing.
func (t *Table) idleList(id ID) *list {
	if t.Record(id).uses&answered != 0 {
		return &t.idle[1]
	}
	return &t.idle[0]
}

// lruFlush puts the template that was made last on the list of those that control
// nothing, if that is what it does.
func (t *Table) lruFlush() {
	if id := t.fresh; id != 0 {
		t.fresh = 0
		t.lruPush(id - 1)
	}
}

// lruPush puts a template at the new end of its list; lruRemove takes it off.
func (t *Table) lruPush(id ID) {
	l, r := t.idleList(id), t.Record(id)
	r.older, r.newer = l.newest, 0
	if l.newest != 0 {
		t.Record(l.newest - 1).newer = id + 1
	} else {
		l.oldest = id + 1
	}
	l.newest = id + 1
	l.n++
}

func (t *Table) lruRemove(id ID) {
	if t.fresh == id+1 {
		t.fresh = 0
		return
	}
	l, r := t.idleList(id), t.Record(id)
	if r.older != 0 {
		t.Record(r.older - 1).newer = r.newer
	} else {
		l.oldest = r.newer
	}
	if r.newer != 0 {
		t.Record(r.newer - 1).older = r.older
	} else {
		l.newest = r.older
	}
	r.older, r.newer = 0, 0
	l.n--
}
