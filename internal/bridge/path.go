package bridge

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// pathCall says where a system call that names a file has its arguments.
type pathCall struct {
	does  deed
	dir   int // the directory's descriptor, or none
	name  int
	how   int // open flags, or none; what access is asked about; of openat2 where they are
	into  int // of a stat: where its answer goes
	flags int // AT_EMPTY_PATH is among them; 0: there are none
}

// none is the argument that a call does not have.
const none = -1

type deed int

const (
	opens deed = iota
	opensHow
	stats
	statsExtended
	asks
	follows    // a link, which none of them is
	attributed // extended attributes, of which they have none
	listed
)

// pathCalls are the system calls that name a file which may be one of IPVS's.
var pathCalls = func() map[int]pathCall {
	all := map[int]pathCall{
		unix.SYS_OPENAT:     {does: opens, dir: 0, name: 1, how: 2},
		unix.SYS_OPENAT2:    {does: opensHow, dir: 0, name: 1, how: 2},
		sysFstatat:          {does: stats, dir: 0, name: 1, into: 2, flags: 3},
		unix.SYS_STATX:      {does: statsExtended, dir: 0, name: 1, into: 4, flags: 2},
		unix.SYS_FACCESSAT:  {does: asks, dir: 0, name: 1, how: 2},
		unix.SYS_FACCESSAT2: {does: asks, dir: 0, name: 1, how: 2, flags: 3},
		unix.SYS_READLINKAT: {does: follows, dir: 0, name: 1},
		unix.SYS_GETXATTR:   {does: attributed, dir: none, name: 0},
		unix.SYS_LGETXATTR:  {does: attributed, dir: none, name: 0},
		unix.SYS_LISTXATTR:  {does: listed, dir: none, name: 0},
		unix.SYS_LLISTXATTR: {does: listed, dir: none, name: 0},
	}
	maps.Copy(all, oldPathCalls)
	return all
}()

// path answers a call that names one of IPVS's files. Every other, and one that the daemon does not
// have or that is asked about while there is none, is the kernel's.
func (c *call) path(p pathCall) (value int64, errno unix.Errno, ours bool) {
	name, is := c.procName(p)
	if !is {
		return 0, 0, false
	}
	c.settle()
	var contents *os.File
	if p.does == opens || p.does == opensHow {
		how, err := c.openFlags(p)
		if err != nil || name == sysctlDir {
			return 0, 0, false
		}
		if how&unix.O_DIRECTORY != 0 && c.has(name) {
			return 0, unix.ENOTDIR, true
		}
		if how&unix.O_ACCMODE != unix.O_RDONLY {
			return c.openToWrite(name, how)
		}
		if contents, err = c.contents(name); err != nil {
			return 0, 0, false
		}
		defer contents.Close()
		only, err := unix.Open(fmt.Sprint("/proc/self/fd/", contents.Fd()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return 0, unix.EMFILE, true
		}
		defer unix.Close(only)
		return c.give(only, how, none)
	}
	if !c.has(name) {
		return 0, 0, false
	}
	switch p.does {
	case follows:
		return 0, unix.EINVAL, true
	case attributed:
		return 0, unix.ENODATA, true
	case listed:
		return 0, 0, true
	case asks:
		return c.access(name, int(c.args[p.how]))
	case statsExtended:
		return c.stat(name, c.args[p.into], int(int32(c.args[p.flags])), true)
	}
	return c.stat(name, c.args[p.into], 0, false)
}

// longest is more than the name of any of IPVS's files has.
const longest = 256

// procName is the name below /proc of the file that a call means, if it may be one of IPVS's.
func (c *call) procName(p pathCall) (name string, is bool) {
	at := c.args[p.name]
	// No further than the page's end, which may be that of the memory.
	page := uint64(os.Getpagesize())
	raw, err := c.read(at, int(min(longest, page-at%page)))
	if err != nil {
		return "", false
	}
	text, _, whole := bytes.Cut(raw, []byte{0})
	if !whole && len(raw) < longest {
		if more, err := c.read(at+uint64(len(raw)), longest-len(raw)); err == nil {
			text, _, whole = bytes.Cut(append(raw, more...), []byte{0})
		}
	}
	if !whole || len(text) == 0 {
		return "", false
	}
	full := string(text)
	if !path.IsAbs(full) {
		in := "cwd"
		if p.dir != none && int32(c.args[p.dir]) != unix.AT_FDCWD {
			in = "fd/" + strconv.Itoa(int(int32(c.args[p.dir])))
		}
		dir, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", c.tid, in))
		if err != nil || !strings.HasPrefix(dir+"/", "/proc/") {
			return "", false
		}
		full = dir + "/" + full
	}
	return procNameOf(path.Clean(full))
}

// procNameOf is the name below /proc of one of IPVS's files, whichever process's own view of the
// network it is reached by.
func procNameOf(full string) (name string, is bool) {
	name, is = strings.CutPrefix(full, "/proc/")
	if !is {
		return "", false
	}
	words := strings.Split(name, "/")
	for i, w := range words[:len(words)-1] {
		if w == "net" && i < len(words)-1 && strings.HasPrefix(words[i+1], "ip_vs") {
			return strings.Join(words[i:], "/"), true
		}
	}
	return name, name == sysctlDir || isSysctl(name)
}

// openFlags are those that a call opens a file with.
func (c *call) openFlags(p pathCall) (int, error) {
	switch {
	case p.does == opens && p.how == none: // creat(2)
		return unix.O_CREAT | unix.O_WRONLY | unix.O_TRUNC, nil
	case p.does == opens:
		return int(int32(c.args[p.how])), nil
	}
	raw, err := c.read(c.args[p.how], 8) // struct open_how begins with them
	if err != nil {
		return 0, err
	}
	return int(order.Uint64(raw)), nil
}

// has asks whether the daemon has a file.
func (c *call) has(name string) bool {
	err := c.daemon.ReadProc(new(firstBytes), name)
	return err == nil || errors.Is(err, errEnough)
}
