package guest

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// module is a kernel module as the kernel loads it.
type module struct {
	name  string // as lsmod prints it
	image []byte // an ELF file
	needs []string
}

// modules returns the modules that are named, and what they depend on, each after
// what it needs. Those that are built into the kernel are left out. There is no
// modules.dep to read: a package has none, as depmod makes it when it is installed.
// But each module says itself what it needs, and depmod adds nothing to that.
func (i *Image) modules(ctx context.Context, names []string) ([]module, error) {
	if len(names) == 0 {
		return nil, nil
	}
	builtin, err := os.ReadFile(filepath.Join(i.Modules, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	within := make(map[string]bool)
	for line := range strings.Lines(string(builtin)) {
		within[moduleName(line)] = true
	}
	paths := make(map[string]string)
	err = filepath.WalkDir(filepath.Join(i.Modules, "kernel"), func(path string, _ fs.DirEntry, err error) error {
		if strings.Contains(filepath.Base(path), ".ko") {
			paths[moduleName(path)] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return closure(names, func(name string) (*module, error) {
		path, ok := paths[name]
		switch {
		case ok:
			return readModule(ctx, path)
		case within[name]:
			return nil, nil
		}
		return nil, fmt.Errorf("%v has no module %s", i, name)
	})
}

// closure returns modules and what they need, each after what it needs. open returns
// the module of a name, or nil for one that need not be loaded.
func closure(names []string, open func(name string) (*module, error)) (list []module, err error) {
	seen := make(map[string]bool)
	var visit func(name string) error
	visit = func(name string) error {
		name = moduleName(name)
		if seen[name] {
			return nil
		}
		seen[name] = true
		m, err := open(name)
		if err != nil || m == nil {
			return err
		}
		for _, n := range m.needs {
			if err := visit(n); err != nil {
				return fmt.Errorf("%s needs it: %w", name, err)
			}
		}
		list = append(list, *m)
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// parametersOf returns parameters by the name under which their module is loaded. It
// is an error if one is not loaded.
func parametersOf(loaded []module, asked map[string]string) (by map[string]string, err error) {
	by = make(map[string]string)
	for name, parameters := range asked {
		name = moduleName(name)
		if !slices.ContainsFunc(loaded, func(m module) bool { return m.name == name }) {
			return nil, fmt.Errorf("parameters for the module %s, which is not loaded: name it in Modules; if it is built in, say %s.%s in Append", name, name, parameters)
		}
		by[name] = parameters
	}
	return by, nil
}

// moduleName returns the name of the module in a file: what is - there is _ in it.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(strings.TrimSpace(path)), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

func readModule(ctx context.Context, path string) (*module, error) {
	m := &module{name: moduleName(path)}
	var err error
	switch filepath.Ext(path) {
	case ".ko":
		m.image, err = os.ReadFile(path)
	case ".xz":
		m.image, err = unxz(ctx, path)
	default:
		err = errors.New("neither .ko nor .ko.xz")
	}
	if err == nil {
		m.needs, err = needs(m.image)
	}
	if err != nil {
		return nil, fmt.Errorf("kernel module %s: %w", path, err)
	}
	return m, nil
}

func unxz(ctx context.Context, path string) ([]byte, error) {
	if err := installed("xz"); err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, "xz", "-dc", path).Output()
}

// needs returns the modules that a module's .modinfo says it depends on.
func needs(image []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("it has no .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for field := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := bytes.CutPrefix(field, []byte("depends=")); ok {
			return slices.DeleteFunc(strings.Split(string(list), ","), func(s string) bool { return s == "" }), nil
		}
	}
	return nil, nil
}
