// Package latency measures how long a round trip and connect() take by each of ulvs's
// planes, beside kernel forwarding and bare XDP on the same segment (`make
// bench-latency`). It has only tests.
package latency
