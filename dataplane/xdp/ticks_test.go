package xdp

import (
	"testing"
	"time"
)

func TestHz(t *testing.T) {
	for _, hz := range kernelHz {
		for _, at := range []time.Duration{time.Second, time.Minute, 299 * time.Second, 301 * time.Second, time.Hour, 400 * 24 * time.Hour} {
			jiffies := uint64(1<<32 - 300*hz + hz*int64((at+2*time.Second)/time.Second))
			got, sure := guessHz(jiffies, at)
			near := at > 200*time.Second && at < 400*time.Second
			if sure && got != hz || !sure && !near && at > time.Minute {
				t.Errorf("%d after %v: %d, sure %v", hz, at, got, sure)
			}
		}
		for _, slip := range []int64{-1, 0, 1} {
			if got, sure := countHz(uint64(hz/5+slip), 200*time.Millisecond); got != hz || !sure {
				t.Errorf("%d by counting, off by %d: %d, sure %v", hz, slip, got, sure)
			}
		}
	}
	if _, sure := countHz(120, 200*time.Millisecond); sure {
		t.Error("sure of 600")
	}
}
