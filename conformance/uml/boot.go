package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// prepare makes a fresh kernel a place where Linux programs work.
func prepare(dir string) error {
	mounts := []struct{ what, where string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", "/run"}, {"tmpfs", "/tmp"},
	}
	for _, m := range mounts {
		// The guest's own folder is the host's, and is often below /tmp.
		if strings.HasPrefix(dir, m.where+"/") {
			continue
		}
		if err := unix.Mount(m.what, m.where, m.what, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.where, err)
		}
	}
	if err := os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"); err != nil {
		return err
	}
	// These two limits are not a namespace's in 6.1 but the system's.
	for name, value := range map[string]string{"icmp_msgs_per_sec": "1000000", "icmp_msgs_burst": "100000"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0o644); err != nil {
			return err
		}
	}
	return loadModules(dir)
}

// wanted are the modules that the lab, IPVS and marks need. Every scheduler and
// persistence engine is loaded besides, since there is no modprobe to ask.
var wanted = []string{
	"veth", "bridge", "af_packet", "ipv6",
	"ip_tables", "ip6_tables", "iptable_mangle", "ip6table_mangle", "iptable_filter", "ip6table_filter",
	"xt_mark", "xt_tcpudp", "xt_multiport", "xt_sctp", "xt_MARK", "xt_comment",
}

// loadModules loads modules and what they depend on, by the list that depmod
// left beside them.
func loadModules(dir string) error {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	root := filepath.Join(dir, "lib", "modules", unix.ByteSliceToString(uts.Release[:]))
	list, err := os.ReadFile(filepath.Join(root, "modules.dep"))
	if err != nil {
		return fmt.Errorf("modules: %w", err)
	}
	needs := make(map[string][]string) // path to paths, the deepest last
	paths := make(map[string]string)   // name to path
	for line := range strings.Lines(string(list)) {
		path, deps, _ := strings.Cut(strings.TrimSpace(line), ":")
		needs[path] = strings.Fields(deps)
		name := strings.TrimSuffix(filepath.Base(path), ".ko")
		paths[name] = path
	}
	names := wanted
	for name := range paths {
		if strings.HasPrefix(name, "ip_vs") {
			names = append(names, name)
		}
	}
	for _, name := range names {
		path, ok := paths[name]
		if !ok {
			continue // built in, or this kernel has none; a command will say so
		}
		deps := needs[path]
		for i := len(deps) - 1; i >= 0; i-- {
			if err := load(filepath.Join(root, deps[i])); err != nil {
				return err
			}
		}
		if err := load(filepath.Join(root, path)); err != nil {
			return err
		}
	}
	return nil
}

func load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("load module: %w", err)
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load module %s: %w", path, err)
	}
	return nil
}
