package control

import (
	"net/http"
	"sync"
	"time"
)

// aliveEach is how often the daemon shows a client that waits that it is alive. Clients
// have more patience (DefaultPatience).
var aliveEach = time.Second // tests have less of it

// headerProgress is the header of a request whose client wants to be shown that.
const headerProgress = "Ulvs-Progress"

// headerTaken is the header of the "102 Processing" behind which a request is carried
// out. Without it the daemon is alive and has not come to the request: if it ends then,
// the request is not carried out, and may be sent again.
const headerTaken = "Ulvs-Taken"

// progress is a response that shows the client each second that the daemon is alive: by
// "102 Processing" (RFC 2518) until it is begun, and by an empty line in a long list.
type progress struct {
	w       http.ResponseWriter
	r       *http.Request
	shown   bool   // the client wants it
	working func() // called when the answer begins: the work is done
	goesOn  bool   // the work is not done when the answer begins; set before

	mu     sync.Mutex
	head   http.Header // as w has its own only once it is begun
	timer  *time.Timer
	begun  bool
	listed bool // something was written since the last tick
	ended  bool
}

func newProgress(w http.ResponseWriter, r *http.Request) *progress {
	p := &progress{w: w, r: r, head: http.Header{}, working: func() {},
		shown: r.Header.Get(headerProgress) != "" && r.ProtoAtLeast(1, 1)}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = time.AfterFunc(aliveEach, p.tick)
	return p
}

// wait shows that the daemon is alive, and has not come to the request.
func (p *progress) wait() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.alive()
}

// alive shows that the daemon is. The caller holds mu.
func (p *progress) alive() {
	switch {
	case !p.shown:
	case !p.begun:
		p.w.WriteHeader(http.StatusProcessing)
	case !p.listed && p.head.Get("Content-Type") == linesType:
		p.bound()
		_, _ = p.w.Write([]byte("\n"))
		_ = http.NewResponseController(p.w).Flush()
	}
	p.listed = false
}

func (p *progress) tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		p.alive()
		p.timer.Reset(aliveEach)
	}
}

// take says that the request is carried out now, unless the client has gone: what it has
// given up is not carried out later.
func (p *progress) take() (there bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.w.Header().Set(headerTaken, "1")
	p.alive()
	p.w.Header().Del(headerTaken)
	return p.r.Context().Err() == nil // net/http ends it where it cannot write
}

// end ends the showing. Nothing is written behind it.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.timer.Stop()
	if p.goesOn { // the connection may bring more requests
		_ = http.NewResponseController(p.w).SetWriteDeadline(time.Time{})
	}
}

// Header implements http.ResponseWriter.
func (p *progress) Header() http.Header { return p.head }

// WriteHeader implements http.ResponseWriter.
func (p *progress) WriteHeader(status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begin(status)
}

// begin begins the answer. The caller holds mu.
func (p *progress) begin(status int) {
	if p.begun {
		return
	}
	p.begun = true
	if !p.goesOn {
		p.working()
	}
	for name, values := range p.head {
		p.w.Header()[name] = values
	}
	p.w.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (p *progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begin(http.StatusOK)
	p.listed = true
	p.bound()
	return p.w.Write(b)
}

// FlushError sends what was written (http.ResponseController).
func (p *progress) FlushError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begin(http.StatusOK)
	return http.NewResponseController(p.w).Flush()
}

// stalled is for how long work waits for a client that does not read its answers. A
// daemon that ends waits for work.
var stalled = 10 * time.Second // tests have less of it

// bound ends work whose client does not read for too long. The caller holds mu.
func (p *progress) bound() {
	if p.goesOn {
		_ = http.NewResponseController(p.w).SetWriteDeadline(time.Now().Add(stalled))
	}
}
