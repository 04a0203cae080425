package afpacket

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// onMainThread is set in the environment of a test binary that stays on the
// main thread.
const onMainThread = "AFPACKET_TEST_MAIN_THREAD"

func init() {
	if os.Getenv(onMainThread) != "" {
		runtime.LockOSThread() // in init: to the main thread
	}
}

// The main thread can be in another namespace than the rest of the process,
// and then /proc/self is there too. A plane that was made on it stays in its
// namespace, whatever thread opens a socket later.
func TestNamespaceOfMainThread(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), onMainThread+"=1", unprivileged+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// mainThread is the other half, in a process of its own.
func mainThread() error {
	var made, used unix.Stat_t
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Stat(ofThread, &made); err != nil {
		return err
	}
	ns, err := currentNamespace()
	if err != nil {
		return err
	}
	defer ns.close()
	look := func() error { return unix.Stat(ofThread, &used) }
	elsewhere := make(chan error)
	go func() { elsewhere <- ns.do(look) }()
	if err := <-elsewhere; err != nil {
		return err
	}
	if used.Ino != made.Ino {
		return fmt.Errorf("another thread worked in namespace %d, the plane is in %d", used.Ino, made.Ino)
	}
	used = unix.Stat_t{}
	if err := ns.do(look); err != nil {
		return err
	}
	if used.Ino != made.Ino {
		return fmt.Errorf("the main thread worked in namespace %d, the plane is in %d", used.Ino, made.Ino)
	}
	return nil
}
