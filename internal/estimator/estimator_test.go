package estimator

import "testing"

// A constant stream is estimated right after some rounds, and forgotten after
// some without it; worked out by hand from ip_vs_est.c.
func TestRate(t *testing.T) {
	var e Estimator
	if e.Shown() != (Counter{}) {
		t.Fatal("something before anything")
	}
	e.Conns, e.Packets, e.Bytes = 20, 2000, 88000
	if e.Shown() != (Counter{}) {
		t.Fatal("shown before the round")
	}
	e.Round()
	if got := e.Shown(); got != (Counter{20, 2000, 88000}) {
		t.Fatalf("%+v", got)
	}
	// A quarter of 10, 1000 and 44000 a second.
	if got := e.Rate(); got != (Rate{2, 250, 11000}) {
		t.Fatalf("%+v", got)
	}
	for range 40 {
		e.Conns += 20
		e.Packets += 2000
		e.Bytes += 88000
		e.Round()
	}
	if got := e.Rate(); got != (Rate{10, 1000, 44000}) {
		t.Fatalf("%+v", got)
	}
	for range 60 {
		e.Round()
	}
	if got := e.Rate(); got != (Rate{0, 0, 0}) {
		t.Fatalf("%+v", got)
	}
}

func TestZero(t *testing.T) {
	var e Estimator
	e.Packets = 100
	e.Round()
	e.Packets = 150
	e.Zero() // forgets what was shown, not what came since
	if e.Shown().Packets != 0 || e.Rate() != (Rate{}) {
		t.Fatal(e.Shown(), e.Rate())
	}
	e.Round()
	if got := e.Shown().Packets; got != 50 {
		t.Fatal(got)
	}
}
