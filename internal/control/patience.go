package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
)

// waiting is a client's waiting for an answer: it ends where the daemon shows no sign of
// life for too long.
type waiting struct {
	ctx      context.Context
	cancel   context.CancelCauseFunc
	timer    *time.Timer
	patience time.Duration
	taken    atomic.Bool // the daemon has begun to carry the request out
}

var errSilent = errors.New("no sign of life")

func (c *Client) await() *waiting {
	w := &waiting{patience: c.Patience}
	ctx, cancel := context.WithCancelCause(context.Background())
	w.cancel = cancel
	w.timer = time.AfterFunc(w.patience, func() { cancel(errSilent) })
	w.ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(_ int, header textproto.MIMEHeader) error {
			if header.Get(headerTaken) != "" {
				w.taken.Store(true)
			}
			w.timer.Reset(w.patience)
			return nil
		},
	})
	return w
}

func (w *waiting) silent() bool { return errors.Is(context.Cause(w.ctx), errSilent) }

func (w *waiting) end() {
	w.timer.Stop()
	w.cancel(nil)
}

// answerReader reads an answer. What its reader does with it is not the daemon's silence.
type answerReader struct {
	io.Reader
	wait *waiting
}

// Read implements io.Reader.
func (r *answerReader) Read(b []byte) (int, error) {
	r.wait.timer.Reset(r.wait.patience)
	defer r.wait.timer.Stop()
	return r.Reader.Read(b)
}

// errAgain is wrapped by errors of requests that were not carried out, and may be sent
// again: a daemon ends, another takes over, or it is just starting.
var errAgain = errors.New("not now")

// insist makes attempts until one is carried out, or no daemon is there, or for as long
// as the client's patience lasts.
func (c *Client) insist(attempt func() error) error {
	const pause = 10 * time.Millisecond
	for began := time.Now(); ; time.Sleep(pause) {
		err := attempt()
		if !errors.Is(err, errAgain) {
			return err
		}
		if time.Since(began) < c.Patience {
			continue
		}
		if pid := lockHolder(c.path); pid != 0 {
			return &remoteError{fmt.Sprintf("the daemon (pid %d) did not answer within %v s: it is starting or ending; "+
				"its log says more; nothing was changed", pid, c.Patience.Seconds()), ulvs.ErrNoAnswer}
		}
		return c.unreachable()
	}
}

// connect connects to the daemon. Where it is stopped and no more can wait for it, it
// waits for that to change.
func (c *Client) connect(ctx context.Context) (net.Conn, error) {
	for {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", c.path)
		if err == nil {
			c.pid.Store(int64(listenerPID(conn)))
		}
		if !errors.Is(err, unix.EAGAIN) {
			return conn, err
		}
		c.pid.Store(int64(lockHolder(c.path)))
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// failed says what became of a request without an answer.
func (c *Client) failed(wait *waiting, err error) error {
	var dialing *net.OpError
	switch {
	case wait.silent():
		return c.noAnswer(wait)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %s; be the daemon's user", ulvs.ErrPermission, c.path)
	case errors.As(err, &dialing) && dialing.Op == "dial":
		if lockHolder(c.path) != 0 {
			return errAgain
		}
	case wait.taken.Load():
		return &remoteError{"the daemon ended while it carried the request out: see what it has done when it runs again",
			ulvs.ErrNoAnswer}
	case disconnected(err):
		return errAgain
	}
	return c.unreachable()
}

// disconnected reports whether a daemon went away in front of a request.
func disconnected(err error) bool {
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, unix.ECONNRESET, unix.EPIPE, net.ErrClosed} {
		if errors.Is(err, e) {
			return true
		}
	}
	return strings.Contains(err.Error(), "server closed idle connection") // net/http does not export it
}

func (c *Client) unreachable() error {
	return fmt.Errorf("%w answers on %s; start one with \"ulvs run\", or name its socket with --control or ULVS_CONTROL", ulvs.ErrUnreachable, c.path)
}

// noAnswer says which daemon did not answer, and what to do.
func (c *Client) noAnswer(wait *waiting) error {
	who, what := "the daemon", "it is stopped or busy"
	if pid := int(c.pid.Load()); pid != 0 {
		who += fmt.Sprintf(" (pid %d)", pid)
		if what = "it is busy: try again, or end it and start it anew"; stopped(pid) {
			what = fmt.Sprintf(`it is stopped: "kill -CONT %d" has it go on`, pid)
		}
	}
	text := fmt.Sprintf("%s did not answer within %v s: %s", who, wait.patience.Seconds(), what)
	if wait.taken.Load() {
		text += "; it had begun: see what it has done when it answers"
	} else {
		text += "; nothing was changed"
	}
	return &remoteError{text, ulvs.ErrNoAnswer}
}
