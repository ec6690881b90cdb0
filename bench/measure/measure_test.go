package measure

import (
	"os"
	"testing"
	"time"
)

func TestLatency(t *testing.T) {
	l := NewLatency()
	for i := range int64(1000) {
		l.Record((i + 1) * int64(time.Millisecond))
	}
	l.Record(-5)
	l.Record(int64(time.Hour)) // counts as two minutes
	q := l.Quantiles()
	if q.Count != 1002 || q.P50 < 499 || q.P50 > 502 || q.P99 < 985 || q.P99 > 995 || q.Max < 119_000 || q.Max > 121_000 {
		t.Errorf("%+v", q)
	}
	if n := testing.AllocsPerRun(100, func() { l.Record(12345) }); n != 0 {
		t.Errorf("Record allocates %v times", n)
	}
}

func TestProcess(t *testing.T) {
	before := OwnCPU()
	for x, end := 0, time.Now().Add(50*time.Millisecond); time.Now().Before(end); x++ {
		_ = x
	}
	if OwnCPU() <= before {
		t.Error("no CPU time was used")
	}
	if _, err := CPU(os.Getpid()); err != nil {
		t.Error(err)
	}
	m, err := ReadMemory(os.Getpid())
	if err != nil || m.RSS < 1<<20 || m.Private > m.RSS {
		t.Errorf("%+v, %v", m, err)
	}
	const nobody = 1 << 30
	if _, err := CPU(nobody); err == nil {
		t.Error("CPU time of a process that isn't")
	}
	if _, err := ReadMemory(nobody); err == nil {
		t.Error("memory of a process that isn't")
	}
}

func TestField(t *testing.T) {
	text := []byte("Name:\tx\nVmRSS:\t  12 kB\nRss: many kB\nShort:\n")
	for name, want := range map[string]int64{"VmRSS:": 12 << 10, "Rss:": 0, "Short:": 0, "Pss:": 0} {
		if got := field(text, name); got != want {
			t.Errorf("%s %d, want %d", name, got, want)
		}
	}
}
