package hostlink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	events "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Options say which interfaces are followed. Only Names is required.
type Options struct {
	Names []string
	// Earlier are the interfaces that an earlier process had, by the names that it was
	// given, and the numbers that they had or 0. Such a one is waited for if it is not there.
	Earlier map[string]int
	// Deleted, if not nil, is told of each interface of the host that is gone, by its number.
	Deleted func(index int)
	// Logger is told what becomes of interfaces; nil means slog.Default().
	Logger *slog.Logger
}

// Links are the interfaces that were given. Make them with New. Links, Check and Use are safe
// for concurrent use.
type Links struct {
	log     *slog.Logger
	deleted func(int)
	kernel  *netlink.Handle
	events  *events.Conn
	checks  chan check
	closed  sync.Once

	generation atomic.Uint64

	mu    sync.Mutex // guards what follows; Run alone changes links
	links []Link
	users []User

	// Of Run: who has not taken which interface, by its given name, and why that was logged.
	pending map[string][]User
	said    map[string]string
	// suspects are interfaces that are not found though nothing was heard, and since when.
	suspects map[int]time.Time
}

// New looks for interfaces, in the calling thread's network namespace. It is an error if none
// is there, unless there was one earlier.
func New(o Options) (*Links, error) {
	if len(o.Names) == 0 {
		return nil, errors.New("no interface given: name at least one")
	}
	l := &Links{log: o.Logger, deleted: o.Deleted, checks: make(chan check), pending: map[string][]User{},
		said: map[string]string{}, suspects: map[int]time.Time{}}
	if l.log == nil {
		l.log = slog.Default()
	}
	// Subscribe before reading, so that no change falls between the two.
	var err error
	if l.events, err = subscribe(); err == nil {
		l.kernel, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	if l.links, err = resolve(l.kernel, o.Names, o.Earlier); err != nil {
		l.Close()
		return nil, err
	}
	for _, is := range l.links {
		l.sayFirst(is)
	}
	return l, nil
}

func (l *Links) has(index int) bool { return has(l.links, index) }

// Links are the interfaces as they are now, those that are not there too.
func (l *Links) Links() []Link {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.links)
}

// Use tells a user of what becomes of the interfaces from now on.
func (l *Links) Use(u User) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users = append(l.users, u)
}

// Check says that a user has lost an interface that nobody has said is gone, so that it is
// taken anew if it is there. It waits for Run; ctx ends when the interface is lost.
func (l *Links) Check(ctx context.Context, index int) {
	select {
	case l.checks <- check{ctx, index}:
	case <-ctx.Done():
	}
}

type check struct {
	ctx   context.Context
	index int
}

// Close gives back what New opened. Run does so when it ends.
func (l *Links) Close() {
	l.closed.Do(func() {
		if l.events != nil {
			_ = l.events.Close()
		}
		if l.kernel != nil {
			l.kernel.Close()
		}
	})
}

// retryEvery is how often what cannot be taken is tried again, and what is not there looked for.
const retryEvery = time.Second

// Run follows the interfaces until ctx ends, and then returns nil. It may be called once. do
// runs a function in their network namespace.
func (l *Links) Run(ctx context.Context, do func(func() error) error) error {
	defer l.Close()
	g, ctx := errgroup.WithContext(ctx)
	notices := make(chan deleted, 16)
	g.Go(func() error { return l.receive(ctx, notices) })
	g.Go(func() error {
		defer l.events.Close() // ends the reading
		t := time.NewTicker(retryEvery)
		defer t.Stop()
		for {
			gone := deleted{}
			select {
			case <-ctx.Done():
				return nil
			case gone = <-notices:
			case c := <-l.checks:
				if c.ctx.Err() == nil {
					gone[c.index] = departure{}
				}
			case <-t.C:
				if !l.waits() {
					continue
				}
			}
			if err := do(func() error { return l.refresh(gone) }); err != nil {
				return err
			}
		}
	})
	return g.Wait()
}

// waits reports whether an interface is not there, or not taken.
func (l *Links) waits() bool {
	return len(l.pending) > 0 || len(l.suspects) > 0 ||
		slices.ContainsFunc(l.links, func(is Link) bool { return !is.There() })
}

// refresh looks at all interfaces, of which some are gone by what was heard.
func (l *Links) refresh(gone deleted) error {
	for i := range l.links {
		was := l.links[i]
		if was.There() {
			how, deleted := gone[was.Index]
			found, err := l.kernel.LinkByIndex(was.Index)
			switch {
			case deleted && (err != nil || !how.others(was, found)):
			case err == nil:
				delete(l.suspects, was.Index)
				l.compare(i, linkOf(was.Given, found))
				continue
			case !errors.As(err, new(netlink.LinkNotFoundError)) || !l.suspect(was.Index):
				continue // the next second
			}
			delete(l.suspects, was.Index)
			l.lose(i, how.moved)
		}
		if found, err := l.kernel.LinkByName(was.Given); err == nil && !l.has(found.Attrs().Index) {
			l.take(i, linkOf(was.Given, found))
		}
	}
	l.fillIn()
	if l.deleted != nil {
		for index := range gone {
			if !l.has(index) {
				l.deleted(index)
			}
		}
	}
	return nil
}

// fillIn has who waits for a name that another one has, since names were swapped, take the
// name that is free for it: nothing else gets the one for which it waits.
func (l *Links) fillIn() {
	for i, is := range l.links {
		if name := l.free(is.Given); !is.There() && name != is.Given {
			if found, err := l.kernel.LinkByName(name); err == nil && !l.has(found.Attrs().Index) {
				l.take(i, linkOf(is.Given, found))
			}
		}
	}
}

// free returns a given name, or if another one has it, the one that was given for that, and
// so on.
func (l *Links) free(name string) string {
	for range l.links {
		i := slices.IndexFunc(l.links, func(o Link) bool { return o.There() && o.Name == name })
		if i < 0 {
			break
		}
		name = l.links[i].Given
	}
	return name
}

// suspect reports whether an interface has not been found for so long that what would say so
// was lost. Before that it is on its way, and says where the interface went.
func (l *Links) suspect(index int) bool {
	since, is := l.suspects[index]
	if !is {
		l.suspects[index] = time.Now()
	}
	return is && time.Since(since) > retryEvery
}

func (l *Links) set(i int, is Link) (users []User) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.links[i] = is
	return slices.Clone(l.users)
}

// compare tells what is another than it was.
func (l *Links) compare(i int, is Link) {
	if was := l.links[i]; is != was {
		for _, u := range l.set(i, is) {
			if !slices.Contains(l.pending[is.Given], u) {
				u.Change(was, is)
			}
		}
		l.sayChange(was, is)
	}
	if len(l.pending[is.Given]) > 0 {
		l.retry(is)
	}
}

func (l *Links) lose(i int, moved bool) {
	was := l.links[i]
	users := l.set(i, Link{Given: was.Given, Name: was.Name})
	for _, u := range slices.Backward(users) {
		u.Lose(was)
	}
	delete(l.pending, was.Given)
	l.sayLost(was, moved)
}

func (l *Links) take(i int, is Link) {
	l.pending[is.Given] = l.set(i, is)
	l.retry(is)
}

// retry has those take an interface who have not.
func (l *Links) retry(is Link) {
	var left []User
	var why error
	for _, u := range l.pending[is.Given] {
		// Who comes later stands on those before.
		if why == nil {
			why = u.Take(is)
		}
		if why != nil {
			left = append(left, u)
		}
	}
	if why == nil {
		delete(l.pending, is.Given)
		delete(l.said, is.Given)
		l.sayBack(is)
		return
	}
	l.pending[is.Given] = left
	if text := why.Error(); l.said[is.Given] != text {
		l.said[is.Given] = text
		l.log.Error("interface cannot be taken; it is tried again each second", "interface", is.Name, "err", why)
	}
}
