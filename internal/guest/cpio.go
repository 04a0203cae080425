package guest

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// archive writes a cpio archive of the "newc" kind, which is what the kernel unpacks
// (Documentation/driver-api/early-userspace/buffer-format.rst). Everything belongs
// to root and is from 1970. The first error is kept, and returned by close.
type archive struct {
	w       io.Writer
	written int64
	inode   uint32
	dirs    map[string]bool
	err     error
}

const (
	modeDir  = 0o040000
	modeFile = 0o100000
)

// add adds a file of so many bytes at an absolute path, and the folders above it.
func (a *archive) add(to string, perm fs.FileMode, size int64, content io.Reader) {
	a.parents(to)
	a.entry(to, modeFile|uint32(perm.Perm()), size, content)
}

// folder adds an empty folder, and those above it.
func (a *archive) folder(to string) { a.parents(to + "/.") }

// copy adds a file of the host's, or a folder with all that it holds. Symbolic links
// are followed.
func (a *archive) copy(to, from string) {
	info, err := os.Stat(from)
	if err != nil {
		a.fail(err)
		return
	}
	if info.IsDir() {
		a.folder(to)
		entries, err := os.ReadDir(from)
		a.fail(err)
		for _, e := range entries {
			a.copy(path.Join(to, e.Name()), filepath.Join(from, e.Name()))
		}
		return
	}
	f, err := os.Open(from)
	if err != nil {
		a.fail(err)
		return
	}
	defer f.Close()
	a.add(to, info.Mode(), info.Size(), f)
}

func (a *archive) parents(of string) {
	dir := path.Dir(of)
	if dir == "/" || a.dirs[dir] {
		return
	}
	a.parents(dir)
	if a.dirs == nil {
		a.dirs = make(map[string]bool)
	}
	a.dirs[dir] = true
	a.entry(dir, modeDir|0o755, 0, nil)
}

func (a *archive) entry(name string, mode uint32, size int64, content io.Reader) {
	if a.err == nil && size > 1<<32-1 {
		a.fail(fmt.Errorf("%s has %d bytes, and a cpio archive takes files of 4 GiB at most", name, size))
	}
	a.inode++
	links := 1
	if mode&modeDir != 0 {
		links = 2
	}
	name = strings.TrimPrefix(name, "/")
	// magic, inode, mode, uid, gid, links, mtime, size, device and its minor, the
	// same of what a special file stands for, length of the name with its NUL, and a
	// checksum that this kind does not have.
	a.print("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		a.inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, len(name)+1, 0, name)
	a.pad()
	if a.err == nil && size > 0 {
		n, err := io.Copy(a.w, io.LimitReader(content, size))
		a.written += n
		if err == nil && n != size {
			err = fmt.Errorf("%d bytes instead of %d", n, size)
		}
		if err != nil {
			a.fail(fmt.Errorf("%s: %w", name, err))
		}
	}
	a.pad()
}

// close ends the archive.
func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, 0, nil)
	if a.err != nil {
		return fmt.Errorf("write the guest's files: %w", a.err)
	}
	return nil
}

func (a *archive) print(format string, args ...any) {
	if a.err == nil {
		var n int
		n, a.err = fmt.Fprintf(a.w, format, args...)
		a.written += int64(n)
	}
}

// pad goes on to the next multiple of four.
func (a *archive) pad() { a.print("%s", "\x00\x00\x00"[:-a.written&3]) }

func (a *archive) fail(err error) {
	if a.err == nil {
		a.err = err
	}
}
