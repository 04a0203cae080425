// Package ulvs has the words in which an operator speaks to a Linux Virtual Server in
// userspace: services, real servers, what a listing shows, and Control, which are
// ipvsadm's verbs. What carries them out is package director; a client of a running
// daemon needs this package alone.
package ulvs
