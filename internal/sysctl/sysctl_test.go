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
	for name, n := range map[string]int{"drop_entry": 4, "drop_packet": -1, "secure_tcp": 17, "conn_reuse_mode": 1 << 40, "nosuch": 1} {
		if _, err := v.Set(name, n); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s=%d: %v", name, n, err)
		}
	}
	if v.DropEntry != 2 {
		t.Error("a refused value was kept")
	}
}
