// Package planes measures ulvs's planes end to end, over a wire, beside what others
// have for the same (`make bench-wire`). It has only tests.
package planes
