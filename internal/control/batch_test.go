package control_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/ulvs/ulvs"
	"github.com/ulvs/ulvs/internal/control"
)

// batching is a director whose batches pause before some of their changes.
type batching struct {
	broken
	pauses  map[int]bool
	pausing chan struct{} // a message at each pause
	proceed chan struct{} // one for each
	done    int           // changes, until the batch has ended
	ended   chan struct{}
}

func newBatching(pauses ...int) *batching {
	b := &batching{pauses: map[int]bool{}, pausing: make(chan struct{}), proceed: make(chan struct{}), ended: make(chan struct{})}
	for _, n := range pauses {
		b.pauses[n] = true
	}
	return b
}

func (b *batching) Batch(changes []ulvs.Change, answer func(n int, err error) bool) error {
	defer close(b.ended)
	for n := range changes {
		if b.pauses[n] {
			b.pausing <- struct{}{}
			<-b.proceed
		}
		b.done++
		if !answer(n, nil) {
			break
		}
	}
	return nil
}

// A batch that takes longer than a client's patience, before its first answer and between
// two, is waited for to its end, while the daemon lives.
func TestLongBatch(t *testing.T) {
	defer control.SetAliveEach(5 * time.Millisecond)()
	const changes, patience = 1000, 2 * time.Second
	b := newBatching(0, 600)
	client, _, _ := serve(t, b)
	client.Patience = patience
	answers, got := 0, make(chan error, 1)
	go func() {
		got <- client.Batch(make([]ulvs.Change, changes), func(int, error) bool { answers++; return true })
	}()
	for range b.pauses {
		<-b.pausing
		time.Sleep(patience + patience/2) // the work
		b.proceed <- struct{}{}
	}
	must(t, <-got)
	if answers != changes {
		t.Errorf("%d answers to %d changes", answers, changes)
	}
}

// A daemon that ends carries out the batches that it has begun, and answers them.
func TestEndWaitsForBatch(t *testing.T) {
	const changes = 1000
	b := newBatching(600)
	client, _, end := serve(t, b)
	answers, got := 0, make(chan error, 1)
	go func() {
		got <- client.Batch(make([]ulvs.Change, changes), func(int, error) bool { answers++; return true })
	}()
	<-b.pausing
	time.AfterFunc(100*time.Millisecond, func() { close(b.proceed) })
	end()
	select {
	case <-b.ended:
	default:
		t.Error("ended in the middle of a batch")
	}
	if err := <-got; err != nil || answers != changes {
		t.Errorf("%d answers to %d changes, %v", answers, changes, err)
	}
}

// A client that does not read the answers to its batch keeps a daemon from ending for a
// short time only, and the director is left alone then.
func TestEndWithStuckBatch(t *testing.T) {
	defer control.SetStalled(100 * time.Millisecond)()
	const changes = 1 << 18 // whose answers no socket holds
	b := newBatching(600)
	_, path, end := serve(t, b)
	c, err := net.Dial("unix", path)
	must(t, err)
	defer c.Close()
	body, err := json.Marshal(make([]ulvs.Change, changes))
	must(t, err)
	_, err = fmt.Fprintf(c, "POST /v1/batch HTTP/1.1\r\nHost: ulvs\r\nContent-Length: %d\r\n\r\n", len(body))
	must(t, err)
	_, err = bytes.NewReader(body).WriteTo(c)
	must(t, err)
	<-b.pausing
	close(b.proceed)
	end()
	select {
	case <-b.ended:
	default:
		t.Fatal("Serve returned while the director was at work")
	}
	if b.done == changes {
		t.Error("the answers were not too many to be stuck")
	}
}
