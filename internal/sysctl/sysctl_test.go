package sysctl

import (
	"strings"
	"testing"
)

func TestValues(t *testing.T) {
	v := Defaults()
	for _, name := range v.Names() {
		if _, ok := v.Get(name); !ok {
			t.Errorf("%s is listed and not there", name)
		}
		effect, err := v.Set(name, 2)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n, _ := v.Get(name); n != 2 {
			t.Errorf("%s is %d after it was set to 2", name, n)
		}
		if _, ok := v.find(name); ok != effect {
			t.Errorf("%s: effect %v", name, effect)
		}
	}
	if v.ConnReuseMode != 2 || v.DropEntry != 2 || v.SloppySCTP != 2 {
		t.Errorf("%+v", v)
	}
	for _, x := range []struct {
		name string
		n    int
		want string
	}{
		{"drop_entry", 4, "drop_entry=4: use 0 to 3"},
		{"drop_packet", -1, "drop_packet=-1: use 0 to 3"},
		{"secure_tcp", 17, "secure_tcp=17: use 0 to 3"},
		{"conn_reuse_mode", 1 << 40, "conn_reuse_mode=1099511627776: use a number of 32 bits"},
		{"nosuch", 1, "nosuch: there is none of that name, but am_droprate, "},
	} {
		if _, err := v.Set(x.name, x.n); err == nil || !strings.HasPrefix(err.Error(), x.want) {
			t.Errorf("%v, want %q", err, x.want)
		}
	}
	if v.DropEntry != 2 {
		t.Error("a refused value was kept")
	}
}
