// Package bridge runs unmodified programs of IPVS (ipvsadm, keepalived, ldirectord) so that
// what they ask of the kernel's IPVS reaches a daemon.
//
// The program is started under a seccomp filter, and a supervisor, a process of its own, is
// asked about a few of its system calls (seccomp_unotify(2)). It gives the program real
// sockets of generic netlink, at descriptors in a window that the program has no others in.
// What is sent by those and is not for IPVS goes on to the kernel. What is, the daemon
// answers (internal/ipvsnl), and the answers are datagrams of netlink from the supervisor's
// own socket in the same network namespace, so that the program polls, waits and reads as
// ever. All other system calls run as without a filter.
//
// With --proc the supervisor is also asked about system calls that name a file. One of IPVS's under
// /proc is opened as a file in memory with what the daemon says, and one of its sysctls to write is
// a socket, whose writes the daemon carries out.
//
// The filter is inherited, so that the program's children speak to the same daemon, in
// whatever network namespace they are.
package bridge
