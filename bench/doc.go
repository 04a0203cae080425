// Package bench measures ulvs across its packages, without a network: what a packet
// costs from the moment that it is in memory until its verdict is said. It has only
// tests; `make bench` runs them. What goes over wires is measured by the packages
// below this one. None of them is covered by compatibility.
package bench
