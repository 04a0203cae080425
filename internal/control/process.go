package control

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// listenerPID returns the process that listens at the other end of a connection, also
// one that does not answer; 0 where it is not known (of another PID namespace).
func listenerPID(c net.Conn) (pid int) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return 0
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		if peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(peer.Pid)
		}
	})
	return pid
}

// lockHolder returns the daemon that has reserved a socket's name, whether it listens
// or not; 0: none that can be seen.
func lockHolder(path string) int {
	lock, err := os.Open(lockPath(path))
	if err != nil {
		return 0
	}
	defer lock.Close()
	var st unix.Stat_t
	said := make([]byte, 20)
	n, _ := lock.ReadAt(said, 0)
	pid, err := strconv.Atoi(string(said[:n]))
	if err != nil || unix.Fstat(int(lock.Fd()), &st) != nil {
		return 0
	}
	// Nobody else's lock is tried: a daemon that starts would find it taken. A line is
	// "1: FLOCK  ADVISORY  WRITE 1234 00:1a:5678 0 EOF".
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(locks)) {
		words := strings.Fields(line)
		if len(words) > 5 && words[1] == "FLOCK" && words[4] == strconv.Itoa(pid) &&
			strings.HasSuffix(words[5], fmt.Sprintf(":%d", st.Ino)) {
			return pid
		}
	}
	return 0
}

// stopped reports whether a process was stopped by a signal, or is being traced.
func stopped(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// The state stands behind the name, which may have brackets of its own.
	state := bytes.TrimSpace(text[bytes.LastIndexByte(text, ')')+1:])
	return len(state) > 0 && (state[0] == 'T' || state[0] == 't')
}
