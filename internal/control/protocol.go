// Package control carries a director's verbs over a unix socket: HTTP and JSON,
// so that any tool can speak it, and a client for Go that has the Director's
// method set.
//
// All paths begin with /v1/. A verb is a POST with a JSON object of its
// arguments, and answers with a JSON object; a look at something is a GET.
// Connections come as one JSON object a line, as they are found. An error is
// status 400, 403, 404, 409 or 500 and an object {"error": text, "kind": word},
// where the word names the ulvs.Err… value. Among connections, such an object is
// the last line when they could not be listed to the end.
//
// A request with the header Ulvs-Progress is shown that the daemon lives: by "102
// Processing" responses before the answer, each second, and by empty lines in a list that
// pauses. The one with the header Ulvs-Taken comes just before the request is
// carried out. Where the connection ends before it, the daemon is ending or being
// replaced: the request was not carried out, and may be sent again.
//
//	POST /v1/service/add, /edit            ulvs.Service
//	POST /v1/service/delete, /zero         ulvs.ServiceKey
//	POST /v1/destination/add, /edit        {"service": key, "destination": ulvs.Destination}
//	                                       -> {} or {"warning": text}, if no packet gets there
//	POST /v1/destination/delete            {"service": key, "addr": "192.0.2.1:80"}
//	POST /v1/clear, /v1/zero               {}
//	POST /v1/batch                         [ulvs.Change] -> {}, a warning or an error for
//	                                       each, a line each, as it is done
//	POST /v1/handover                      {}, ends the daemon: the next goes on. With the
//	                                       header Ulvs-Pass-Socket its socket comes beside
//	                                       the answer (SCM_RIGHTS)
//	POST /v1/service/get                   ulvs.ServiceKey -> ulvs.ServiceStatus
//	GET  /v1/services                      [ulvs.ServiceStatus]
//	GET  /v1/connections                   ulvs.ConnStatus a line
//	GET  /v1/timeouts, POST /v1/timeouts   ulvs.Timeouts
//	POST /v1/marks/command                 {"ipv6": bool, "args": [words]} -> {"text": …}
//	POST /v1/marks/save, /restore          {"ipv6": bool, "text": …} -> {"text": …}
//	GET  /v1/sysctls, POST /v1/sysctl      {"name": …, "value": n, "set": bool}
//	POST /v1/ipvs                          what programs ask of the kernel's IPVS, in the words
//	                                       of package ipvsnl (ulvs bridge)
//	GET  /v1/facts                         [{"name": …, "value": …}]
//	GET  /v1/counters                      {name: n}
//	GET  /v1/version                       {"version": …, "size": n}
package control

import (
	"errors"
	"net/http"
	"net/netip"

	"github.com/ulvs/ulvs"
)

// DefaultSocket is where the daemon listens if it is not told otherwise, and
// where clients look for it.
const DefaultSocket = "/run/ulvs.sock"

type destinationRequest struct {
	Service     ulvs.ServiceKey  `json:"service"`
	Destination ulvs.Destination `json:"destination,omitzero"`
	Addr        netip.AddrPort   `json:"addr,omitzero"`
}

type marksRequest struct {
	IPv6 bool     `json:"ipv6,omitempty"`
	Args []string `json:"args,omitempty"`
	Text string   `json:"text,omitempty"`
}

// changedReply answers a change that was carried out.
type changedReply struct {
	Warning string `json:"warning,omitempty"`
}

type textReply struct {
	Text string `json:"text"`
}

type sysctlRequest struct {
	Name  string `json:"name"`
	Value int    `json:"value"`
	Set   bool   `json:"set,omitempty"`
}

type versionReply struct {
	Version string `json:"version"`
	Size    int    `json:"size"`
}

type errorReply struct {
	Error string `json:"error,omitempty"`
	Kind  string `json:"kind,omitempty"`
}

// kinds are the errors that keep their identity on the way.
var kinds = []struct {
	word   string
	err    error
	status int
}{
	{"service-exists", ulvs.ErrServiceExists, http.StatusConflict},
	{"no-service", ulvs.ErrNoService, http.StatusNotFound},
	{"destination-exists", ulvs.ErrDestinationExists, http.StatusConflict},
	{"no-destination", ulvs.ErrNoDestination, http.StatusNotFound},
	{"no-scheduler", ulvs.ErrNoScheduler, http.StatusNotFound},
	{"invalid", ulvs.ErrInvalid, http.StatusBadRequest},
	{"range", ulvs.ErrRange, http.StatusBadRequest},
	{"unsupported", ulvs.ErrUnsupported, http.StatusBadRequest},
	{"permission", ulvs.ErrPermission, http.StatusForbidden},
}

// remoteError is an error that came over the socket: the daemon's text, and
// the identity of the error it was there.
type remoteError struct {
	text string
	is   error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }

func (r errorReply) toError() error {
	for _, k := range kinds {
		if k.word == r.Kind {
			return &remoteError{r.Error, k.err}
		}
	}
	return errors.New(r.Error)
}

func errorReplyOf(err error) (errorReply, int) {
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return errorReply{err.Error(), k.word}, k.status
		}
	}
	return errorReply{Error: err.Error()}, http.StatusInternalServerError
}
