package control

import (
	"encoding/json"
	"io"
	"net/http"
)

// Bridged is a Control that answers what programs ask of the kernel's IPVS.
type Bridged interface {
	// IPVS answers a request; what both hold is a matter between it and who calls Bridge.IPVS.
	IPVS(request json.RawMessage) (any, error)
	// ReadProc writes the contents of a file that IPVS has under /proc. The error is
	// ulvs.ErrUnsupported where there is none of that name.
	ReadProc(w io.Writer, name string) error
	// WriteProc takes what is written into one. The error is ulvs.ErrUnsupported, or
	// ulvs.ErrInvalid.
	WriteProc(name, text string) error
}

// procRequest names a file under /proc, as "net/ip_vs".
type procRequest struct {
	Name string `json:"name"`
	Text string `json:"text,omitempty"`
}

func bridged(m *http.ServeMux, b Bridged) {
	post(m, "ipvs", b.IPVS)
	post(m, "proc/write", func(r procRequest) (any, error) { return nil, b.WriteProc(r.Name, r.Text) })
	m.HandleFunc("POST /v1/proc/read", func(w http.ResponseWriter, r *http.Request) {
		req, err := request[procRequest](w, r, maxRequest)
		if err != nil {
			reply(w, nil, err)
			return
		}
		out := &lateError{w: w}
		w.Header().Set("Content-Type", "text/plain")
		if err := b.ReadProc(out, req.Name); err != nil && !out.begun {
			reply(w, nil, err)
		} else if err != nil {
			panic(http.ErrAbortHandler) // too late for a status: the reader finds it cut
		}
	})
}

// lateError knows whether anything was written.
type lateError struct {
	w     io.Writer
	begun bool
}

func (l *lateError) Write(b []byte) (int, error) {
	l.begun = true
	return l.w.Write(b)
}

// Bridge is a client that hands on what programs ask of the kernel's IPVS. Its methods may be called
// from any goroutine.
type Bridge struct{ *Client }

// IPVS has the daemon answer what a program asked of the kernel's IPVS (Bridged). The error is
// ulvs.ErrUnreachable, or ulvs.ErrNoAnswer.
func (c Bridge) IPVS(request, answer any) error {
	return c.do(http.MethodPost, "ipvs", request, func(r io.Reader) error { return json.NewDecoder(r).Decode(answer) })
}

// ReadProc writes the contents of a file that IPVS has under /proc, named as it is there, to w. The
// error is ulvs.ErrUnsupported where there is none of that name, ulvs.ErrUnreachable or
// ulvs.ErrNoAnswer.
func (c Bridge) ReadProc(w io.Writer, name string) error {
	return c.do(http.MethodPost, "proc/read", procRequest{Name: name}, func(r io.Reader) error {
		_, err := io.Copy(w, r)
		return err
	})
}

// WriteProc writes into one. The error may also be ulvs.ErrInvalid.
func (c Bridge) WriteProc(name, text string) error {
	return c.post("proc/write", procRequest{name, text})
}
