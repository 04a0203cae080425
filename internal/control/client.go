package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/ulvs/ulvs"
)

// Client speaks to a running daemon. Make it with Dial. Its methods may be
// called from any goroutine.
type Client struct {
	// Patience is how long the daemon may show no sign of life before a method fails
	// with ulvs.ErrNoAnswer. It may take longer for what it does: it shows that then. It is
	// DefaultPatience, and not to be changed while a method runs.
	Patience time.Duration
	// Warned is called with what the daemon says of a change that it carried out, or nil; it
	// is not to be changed while a method runs.
	Warned func(text string)

	path string
	http http.Client
	pid  atomic.Int64 // who listened when a connection was last made; 0: not known
}

// DefaultPatience is how long a client waits for a sign of life.
const DefaultPatience = 5 * time.Second

var _ ulvs.Control = (*Client)(nil)

// Dial makes a client of the daemon that listens at path. It does not connect
// yet: a method of a client without a daemon fails with ulvs.ErrUnreachable.
func Dial(path string) *Client {
	c := &Client{Patience: DefaultPatience, path: path}
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.connect(ctx) },
	}
	return c
}

// do sends a request and hands the body of a good answer to read.
func (c *Client) do(method, path string, body any, read func(io.Reader) error) error {
	var raw []byte
	if method == http.MethodPost {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return err
		}
	}
	return c.insist(func() error { return c.attempt(method, path, raw, read) })
}

// attempt sends a request once.
func (c *Client) attempt(method, path string, body []byte, read func(io.Reader) error) error {
	wait := c.await()
	defer wait.end()
	req, err := http.NewRequestWithContext(wait.ctx, method, "http://ulvs/v1/"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set(headerProgress, "1")
	resp, err := c.http.Do(req)
	if err != nil {
		return c.failed(wait, err)
	}
	defer resp.Body.Close()
	answer := &answerReader{resp.Body, wait}
	if resp.StatusCode != http.StatusOK {
		return c.refusal(answer, resp.Status, path)
	}
	if err := read(answer); err != nil && wait.silent() {
		return c.noAnswer(wait)
	} else {
		return err
	}
}

// refusal is the error in an answer that is none that was hoped for.
func (c *Client) refusal(answer io.Reader, status, path string) error {
	var e errorReply
	if err := json.NewDecoder(answer).Decode(&e); err != nil || e.Error == "" {
		return fmt.Errorf("the daemon on %s answered %s to %s: is it another version?", c.path, status, path)
	}
	return e.toError()
}

func (c *Client) post(path string, body any) error {
	return c.do(http.MethodPost, path, body, func(io.Reader) error { return nil })
}

// change is post for what the daemon may have something to say about.
func (c *Client) change(path string, body any) error {
	r, err := fetch[changedReply](c, http.MethodPost, path, body)
	if err == nil {
		c.warn(r)
	}
	return err
}

func (c *Client) warn(r changedReply) {
	if r.Warning != "" && c.Warned != nil {
		c.Warned(r.Warning)
	}
}

func fetch[T any](c *Client, method, path string, body any) (v T, err error) {
	err = c.do(method, path, body, func(r io.Reader) error { return json.NewDecoder(r).Decode(&v) })
	return v, err
}

// The verbs of ulvs.Control, each over the socket.

func (c *Client) Version() (string, int, error) {
	r, err := fetch[versionReply](c, http.MethodGet, "version", nil)
	return r.Version, r.Size, err
}
func (c *Client) AddService(s ulvs.Service) error       { return c.post("service/add", s) }
func (c *Client) EditService(s ulvs.Service) error      { return c.post("service/edit", s) }
func (c *Client) DeleteService(k ulvs.ServiceKey) error { return c.post("service/delete", k) }
func (c *Client) Zero(k ulvs.ServiceKey) error          { return c.post("service/zero", k) }

func (c *Client) Clear() error                      { return c.post("clear", struct{}{}) }
func (c *Client) ZeroAll() error                    { return c.post("zero", struct{}{}) }
func (c *Client) SetTimeouts(t ulvs.Timeouts) error { return c.post("timeouts", t) }
func (c *Client) MarkRestore(ipv6 bool, text string) error {
	return c.post("marks/restore", marksRequest{IPv6: ipv6, Text: text})
}

func (c *Client) AddDestination(k ulvs.ServiceKey, d ulvs.Destination) error {
	return c.change("destination/add", destinationRequest{Service: k, Destination: d})
}

func (c *Client) EditDestination(k ulvs.ServiceKey, d ulvs.Destination) error {
	return c.change("destination/edit", destinationRequest{Service: k, Destination: d})
}

func (c *Client) DeleteDestination(k ulvs.ServiceKey, at netip.AddrPort) error {
	return c.post("destination/delete", destinationRequest{Service: k, Addr: at})
}

func (c *Client) Services() ([]ulvs.ServiceStatus, error) {
	return fetch[[]ulvs.ServiceStatus](c, http.MethodGet, "services", nil)
}

func (c *Client) Total() (ulvs.Total, error) {
	return fetch[ulvs.Total](c, http.MethodGet, "total", nil)
}

func (c *Client) Service(k ulvs.ServiceKey) (ulvs.ServiceStatus, error) {
	return fetch[ulvs.ServiceStatus](c, http.MethodPost, "service/get", k)
}

func (c *Client) Conns(yield func(ulvs.ConnStatus) bool) error {
	return c.do(http.MethodGet, "connections", nil, func(r io.Reader) error {
		d := json.NewDecoder(r)
		for {
			var s struct {
				ulvs.ConnStatus
				errorReply
			}
			switch err := d.Decode(&s); {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				return fmt.Errorf("connections from %s: %w", c.path, err)
			}
			if s.Error != "" {
				return s.toError()
			}
			if !yield(s.ConnStatus) {
				return nil
			}
		}
	})
}

func (c *Client) Timeouts() (ulvs.Timeouts, error) {
	return fetch[ulvs.Timeouts](c, http.MethodGet, "timeouts", nil)
}

func (c *Client) MarkCommand(ipv6 bool, args []string) (string, error) {
	r, err := fetch[textReply](c, http.MethodPost, "marks/command", marksRequest{IPv6: ipv6, Args: args})
	return r.Text, err
}

func (c *Client) MarkSave(ipv6 bool) (string, error) {
	r, err := fetch[textReply](c, http.MethodPost, "marks/save", marksRequest{IPv6: ipv6})
	return r.Text, err
}

func (c *Client) Sysctl(name string) (int, error) {
	r, err := fetch[sysctlRequest](c, http.MethodPost, "sysctl", sysctlRequest{Name: name})
	return r.Value, err
}

func (c *Client) SetSysctl(name string, value int) error {
	return c.post("sysctl", sysctlRequest{Name: name, Value: value, Set: true})
}

func (c *Client) Sysctls() (map[string]int, error) {
	return fetch[map[string]int](c, http.MethodGet, "sysctls", nil)
}

func (c *Client) Facts() ([]ulvs.Fact, error) {
	return fetch[[]ulvs.Fact](c, http.MethodGet, "facts", nil)
}

func (c *Client) Counters() (map[string]uint64, error) {
	return fetch[map[string]uint64](c, http.MethodGet, "counters", nil)
}
