package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ulvs/ulvs"
)

// Handover ends the daemon, which leaves everything to the next one, and returns when it
// has stopped to forward. What it returns is the daemon's socket, for
// Reservation.Inherit; nil from a daemon that does not give it away.
func (c *Client) Handover(ctx context.Context) (*os.File, error) {
	wait := c.await()
	defer wait.end()
	defer context.AfterFunc(ctx, func() { wait.cancel(ctx.Err()) })()
	conn, err := c.connect(wait.ctx)
	if err != nil {
		return nil, c.handoverFailed(wait, err)
	}
	defer conn.Close()
	defer context.AfterFunc(wait.ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	req, err := http.NewRequest(http.MethodPost, "http://ulvs/v1/handover", strings.NewReader("{}"))
	if err != nil {
		return nil, err
	}
	req.Header.Set(headerProgress, "1")
	req.Header.Set(headerPass, "1")
	if err := req.Write(conn); err != nil {
		return nil, c.handoverFailed(wait, err)
	}
	in := &rightsReader{conn: conn.(*net.UnixConn)}
	for answers := bufio.NewReader(in); ; {
		resp, err := http.ReadResponse(answers, req)
		if err != nil {
			return nil, errors.Join(c.handoverFailed(wait, err), in.close())
		}
		wait.timer.Reset(wait.patience)
		switch {
		case resp.StatusCode == http.StatusProcessing:
			continue
		case resp.StatusCode != http.StatusOK:
			return nil, c.refusal(resp.Body, resp.Status, "handover")
		}
		var nothing struct{}
		if err := json.NewDecoder(resp.Body).Decode(&nothing); err != nil {
			return nil, errors.Join(c.handoverFailed(wait, err), in.close())
		}
		return in.file, nil
	}
}

func (c *Client) handoverFailed(wait *waiting, err error) error {
	if err = c.failed(wait, err); errors.Is(err, errAgain) {
		return &remoteError{fmt.Sprintf("the daemon at %s is starting or ending: try again", c.path), ulvs.ErrNoAnswer}
	}
	return err
}

// rightsReader reads a connection, and keeps the descriptor that comes with it.
type rightsReader struct {
	conn *net.UnixConn
	file *os.File
}

// Read implements io.Reader.
func (r *rightsReader) Read(b []byte) (int, error) {
	beside := make([]byte, unix.CmsgSpace(4))
	n, m, _, _, err := r.conn.ReadMsgUnix(b, beside)
	if err != nil {
		return n, err
	}
	messages, err := unix.ParseSocketControlMessage(beside[:m])
	if err != nil {
		return n, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return n, err
		}
		for _, fd := range fds {
			_ = r.close()
			r.file = os.NewFile(uintptr(fd), "control socket")
		}
	}
	return n, nil
}

func (r *rightsReader) close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}
