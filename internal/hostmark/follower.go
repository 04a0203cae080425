package hostmark

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Options say how to follow. The zero value is right for a daemon.
type Options struct {
	// Interfaces, if not nil, are the names of those that ulvs takes packets from, which
	// may change: a rule for others alone is none that could not be followed. nil is all
	// but lo.
	Interfaces func() []string
	// Poll is how often iptables-legacy, which tells of no changes, is looked
	// at; 0 is half a second.
	Poll time.Duration
	// Settle is how long nftables must be quiet after a change, at most five
	// times as long, before it is read, so that a script of many commands is
	// read a few times only; 0 is 20 ms.
	Settle time.Duration
	// Problem, if not nil, is called when the rules cannot be read after they
	// could be; the last ones stay in force and reading is tried again. It may
	// be called from another goroutine than Run's.
	Problem func(error)
}

// Follower follows the mark rules of one network namespace.
type Follower struct {
	options Options
	ns      *os.File
}

// New makes a Follower for the network namespace of the calling thread. It
// fails where Read would.
func New(o Options) (*Follower, error) {
	if o.Poll <= 0 {
		o.Poll = 500 * time.Millisecond
	}
	if o.Settle <= 0 {
		o.Settle = 20 * time.Millisecond
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if o.Interfaces == nil {
		o.Interfaces = func() []string { return nil }
	}
	if _, err := Read(o.Interfaces()...); err != nil {
		return nil, err
	}
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("mark rules: cannot open the network namespace: %w (is /proc mounted?)", err)
	}
	return &Follower{options: o, ns: ns}, nil
}

// Close frees what New took. Call it after Run has returned.
func (f *Follower) Close() error { return f.ns.Close() }

// Run calls changed with the rules as they are and then, within a second, at
// every change, always from this goroutine. It returns when ctx ends, with its
// error, or when changed fails, with that error, or when the rules cannot be
// read at the start.
func (f *Follower) Run(ctx context.Context, changed func(Rules) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	rules, ended := make(chan Rules), make(chan error, 1)
	go func() { ended <- f.watch(ctx, rules) }()
	defer cancel(nil)
	for {
		select {
		case r := <-rules:
			if err := changed(r); err != nil {
				cancel(err)
				<-ended
				return err
			}
		case err := <-ended:
			return err
		}
	}
}

// watch runs on a thread of its own in the namespace.
func (f *Follower) watch(ctx context.Context, out chan<- Rules) error {
	runtime.LockOSThread()
	moved, err := f.enter()
	if err != nil {
		return err
	}
	if !moved { // else the thread ends with this goroutine
		defer runtime.UnlockOSThread()
	}
	w := &watcher{Follower: f, ctx: ctx, out: out}
	defer w.close()
	return w.run()
}

// enter brings the thread into the namespace.
func (f *Follower) enter() (moved bool, err error) {
	var here, there unix.Stat_t
	if err := errors.Join(unix.Stat("/proc/thread-self/ns/net", &here), unix.Fstat(int(f.ns.Fd()), &there)); err != nil {
		return false, fmt.Errorf("mark rules: cannot open the network namespace: %w", err)
	}
	if here.Dev == there.Dev && here.Ino == there.Ino {
		return false, nil
	}
	if err := unix.Setns(int(f.ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return false, fmt.Errorf("mark rules: cannot enter the network namespace: %w", err)
	}
	return true, nil
}

// watcher is a Run that is under way.
type watcher struct {
	*Follower
	ctx     context.Context
	out     chan<- Rules
	reader  *reader
	changes *conn // nil: no nftables
	// news has a word when nftables has changed, and ends when that cannot be followed
	// any more, of which failed says why.
	news   chan struct{}
	failed chan error

	told  bool
	rules Rules
	// stale: the last attempt to read failed.
	stale bool
}

func (w *watcher) close() {
	if w.reader != nil {
		w.reader.close()
	}
	if w.changes != nil {
		w.changes.close()
		for range w.news { // until it has seen that
		}
	}
}

func (w *watcher) run() (err error) {
	if w.reader, err = newReader(w.options.Interfaces()); err != nil {
		return err
	}
	if w.reader.nft != nil {
		if w.changes, err = dial(); err != nil {
			return fmt.Errorf("mark rules: %w", err)
		}
		w.news, w.failed = make(chan struct{}, 1), make(chan error, 1)
		err := w.changes.subscribe()
		go w.changes.follow(w.news, w.failed)
		if err != nil {
			return fmt.Errorf("mark rules: %w", err)
		}
	}
	if err := w.read(); err != nil {
		return err
	}
	for next := time.Now().Add(w.options.Poll); ; {
		changed, err := w.wait(time.Until(next))
		if err != nil {
			return err
		}
		if now := time.Now(); !now.Before(next) {
			next = now.Add(w.options.Poll)
			legacy, err := w.reader.readTables()
			if err != nil {
				w.problem(err)
				continue
			}
			names := w.options.Interfaces()
			changed = changed || legacy || !slices.Equal(names, w.reader.interfaces)
			w.reader.interfaces = names
		}
		if changed || w.stale {
			if err := w.read(); err != nil {
				if w.ctx.Err() != nil {
					return context.Cause(w.ctx)
				}
				w.problem(err)
			}
		}
	}
}

func (w *watcher) problem(err error) {
	if !w.stale && w.options.Problem != nil {
		w.options.Problem(err)
	}
	w.stale = true
}

// read reads the rules and hands them out if they have changed.
func (w *watcher) read() error {
	r, err := w.reader.rules()
	if err != nil {
		return err
	}
	w.stale = false
	if w.told && r.Equal(w.rules) {
		return nil
	}
	select {
	case w.out <- r:
		w.told, w.rules = true, r
		return nil
	case <-w.ctx.Done():
		return context.Cause(w.ctx)
	}
}

// wait waits for news of nftables, and until they have settled, or for the
// time to pass.
func (w *watcher) wait(limit time.Duration) (news bool, err error) {
	for range 6 {
		timer := time.NewTimer(max(limit, 0))
		select {
		case <-timer.C:
			return news, nil
		case <-w.ctx.Done():
			timer.Stop()
			return false, context.Cause(w.ctx)
		case _, follows := <-w.news:
			timer.Stop()
			if !follows {
				return false, fmt.Errorf("mark rules: %w", <-w.failed)
			}
			news, limit = true, w.options.Settle
		}
	}
	return news, nil
}
