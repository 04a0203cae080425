package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/ulvs/ulvs"
)

// Handler serves the protocol over any director, but for the handover, which is a
// Server's.
func Handler(c ulvs.Control) http.Handler {
	m := http.NewServeMux()
	post(m, "service/add", func(s ulvs.Service) (any, error) { return nil, c.AddService(s) })
	post(m, "service/edit", func(s ulvs.Service) (any, error) { return nil, c.EditService(s) })
	post(m, "service/delete", func(k ulvs.ServiceKey) (any, error) { return nil, c.DeleteService(k) })
	post(m, "service/zero", func(k ulvs.ServiceKey) (any, error) { return nil, c.Zero(k) })
	post(m, "service/get", func(k ulvs.ServiceKey) (any, error) { return c.Service(k) })
	post(m, "destination/add", func(r destinationRequest) (any, error) {
		return caution(c, r.Destination), c.AddDestination(r.Service, r.Destination)
	})
	post(m, "destination/edit", func(r destinationRequest) (any, error) {
		return caution(c, r.Destination), c.EditDestination(r.Service, r.Destination)
	})
	post(m, "destination/delete", func(r destinationRequest) (any, error) { return nil, c.DeleteDestination(r.Service, r.Addr) })
	post(m, "clear", func(struct{}) (any, error) { return nil, c.Clear() })
	post(m, "zero", func(struct{}) (any, error) { return nil, c.ZeroAll() })
	m.HandleFunc("POST /v1/batch", func(w http.ResponseWriter, r *http.Request) {
		changes, err := request[[]ulvs.Change](w, r, maxBatch)
		if err != nil {
			reply(w, nil, err)
			return
		}
		batch(w, r, c, changes)
	})
	post(m, "timeouts", func(t ulvs.Timeouts) (any, error) { return nil, c.SetTimeouts(t) })
	post(m, "marks/command", func(r marksRequest) (any, error) {
		text, err := c.MarkCommand(r.IPv6, r.Args)
		return textReply{text}, err
	})
	post(m, "marks/save", func(r marksRequest) (any, error) {
		text, err := c.MarkSave(r.IPv6)
		return textReply{text}, err
	})
	post(m, "marks/restore", func(r marksRequest) (any, error) { return nil, c.MarkRestore(r.IPv6, r.Text) })
	post(m, "sysctl", func(r sysctlRequest) (any, error) {
		if r.Set {
			if err := c.SetSysctl(r.Name, r.Value); err != nil {
				return nil, err
			}
		}
		v, err := c.Sysctl(r.Name)
		return sysctlRequest{Name: r.Name, Value: v}, err
	})
	if b, ok := c.(Bridged); ok {
		bridged(m, b)
	}
	get(m, "services", func() (any, error) { return c.Services() })
	get(m, "total", func() (any, error) { return c.Total() })
	get(m, "timeouts", func() (any, error) { return c.Timeouts() })
	get(m, "sysctls", func() (any, error) { return c.Sysctls() })
	get(m, "facts", func() (any, error) { return c.Facts() })
	get(m, "counters", func() (any, error) { return c.Counters() })
	get(m, "version", func() (any, error) {
		v, size, err := c.Version()
		return versionReply{v, size}, err
	})
	m.HandleFunc("GET /v1/connections", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", linesType)
		enc, begun := json.NewEncoder(w), false
		err := c.Conns(func(s ulvs.ConnStatus) bool {
			begun = true
			return enc.Encode(s) == nil
		})
		switch {
		case err != nil && begun: // too late for a status
			e, _ := errorReplyOf(err)
			_ = enc.Encode(e)
		case err != nil:
			reply(w, nil, err)
		}
	})
	return m
}

// linesType is the type of a list with an object a line.
const linesType = "application/x-ndjson"

// maxRequest is more than any rules file that a person would write, and maxBatch what
// programs write: some three hundred thousand changes.
const (
	maxRequest = 16 << 20
	maxBatch   = 64 << 20
)

// request reads the one object of a request, of at most so many bytes.
func request[R any](w http.ResponseWriter, r *http.Request, most int64) (req R, err error) {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, most))
	d.DisallowUnknownFields()
	if err = d.Decode(&req); err == nil {
		// A second object would be a command that is not carried out.
		if _, more := d.Token(); more == nil {
			err = errors.New("there is more behind the object in its body")
		} else if !errors.Is(more, io.EOF) {
			err = more
		}
	}
	if err != nil {
		err = fmt.Errorf("%w: request: %v", ulvs.ErrInvalid, err)
	}
	return req, err
}

func post[R any](m *http.ServeMux, path string, f func(R) (any, error)) {
	m.HandleFunc("POST /v1/"+path, func(w http.ResponseWriter, r *http.Request) {
		req, err := request[R](w, r, maxRequest)
		if err != nil {
			reply(w, nil, err)
			return
		}
		v, err := f(req)
		reply(w, v, err)
	})
}

// caution is a warning about a real server, of a director that has any to give.
func caution(c ulvs.Control, d ulvs.Destination) changedReply {
	if c, ok := c.(interface{ Caution(ulvs.Destination) string }); ok {
		return changedReply{c.Caution(d)}
	}
	return changedReply{}
}

// batch carries out changes, with an answer a line, and ends when nobody waits for more of
// them.
func batch(w http.ResponseWriter, r *http.Request, c ulvs.Control, changes []ulvs.Change) {
	const often = 256 // answers
	w.Header().Set("Content-Type", linesType)
	if p, ok := w.(*progress); ok {
		p.goesOn = true
	}
	out, enc, begun := http.NewResponseController(w), json.NewEncoder(w), false
	err := c.Batch(changes, func(n int, err error) bool {
		begun = true
		var answer any = changedReply{}
		switch verb := changes[n].Verb; {
		case err != nil:
			answer, _ = errorReplyOf(err)
		case verb == ulvs.VerbAddDestination || verb == ulvs.VerbEditDestination:
			answer = caution(c, changes[n].Destination)
		}
		if enc.Encode(answer) != nil {
			return false
		}
		if n%often == often-1 && out.Flush() != nil {
			return false
		}
		return r.Context().Err() == nil
	})
	switch {
	case err != nil && begun: // too late for a status: it is the next one's answer, and the last
		e, _ := errorReplyOf(err)
		_ = enc.Encode(e)
	case err != nil:
		reply(w, nil, err)
	}
}

func get(m *http.ServeMux, path string, f func() (any, error)) {
	m.HandleFunc("GET /v1/"+path, func(w http.ResponseWriter, r *http.Request) {
		v, err := f()
		reply(w, v, err)
	})
}

func reply(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		r, status := errorReplyOf(err)
		w.WriteHeader(status)
		v = r
	} else if v == nil {
		v = struct{}{}
	}
	// The client is gone if this fails; there is nobody to tell.
	_ = json.NewEncoder(w).Encode(v)
}
