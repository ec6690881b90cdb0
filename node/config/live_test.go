package config

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestEveryLiveNameIsASetting(t *testing.T) {
	for name := range live {
		if _, ok := Default().Value(name); !ok {
			t.Errorf("%s isn't in the configuration", name)
		}
	}
	if n := len(Shared()); n < 15 || n >= len(live) {
		t.Errorf("%d of %d may be set for all nodes", n, len(live))
	}
	for name, want := range map[string]string{"log.level": "info", "limits.bytes_per_second": "256KiB", "retention.group": "0s", "limits.inflight": "256"} {
		if v, ok := Default().Value(name); !ok || v != want {
			t.Errorf("%s is %q, want %q", name, v, want)
		}
	}
	for _, name := range []string{"", "limits", "limits.", "limits.nothing", "limits.inflight.more", "nothing"} {
		if v, ok := Default().Value(name); ok {
			t.Errorf("%q is %q", name, v)
		}
	}
}

func TestSettingsForAllNodes(t *testing.T) {
	own := Default()
	own.Drain.Alternatives = []string{"other:7070"}
	got, err := own.With(map[string]string{
		"log.level": "debug", "limits.inflight": "7", "limits.bytes_per_second": "2MiB", "retention.group": "48h", "fanout.large_group": "1000",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := own
	want.Log.Level, want.Limits.Inflight, want.Limits.BytesPerSecond, want.Retention.Group, want.Fanout.LargeGroup = "debug", 7, 2<<20, 48*time.Hour, 1000
	if !reflect.DeepEqual(got, want) {
		t.Errorf("with settings:\n%+v\nwant:\n%+v", got, want)
	}
	for name, c := range map[string]struct{ value, want string }{
		"limits.nothing":               {"1", "no setting"},
		"limits":                       {"1", "no setting"},
		"":                             {"1", "no setting"},
		"limits.frame":                 {"128KiB", "can't be changed while nodes run"},
		"cluster.node_id":              {"x", "can't be changed while nodes run"},
		"issuers":                      {"x", "can't be changed while nodes run"},
		"tcp.tls.cert_file":            {"/x", "each machine"},
		"limits.inflight":              {"many", "limits"},
		"limits.sends_per_second":      {"0", "limits.sends_per_second"},
		"limits.connections":           {"99999999", "limits.connections"},
		"limits.unauthenticated":       {"9223372036854775808", "limits"},
		"limits.bytes_per_second":      {"1 lot", "number of bytes"},
		"log.level":                    {"loud", "log.level"},
		"retention.group":              {"1s", "retention.group"},
		"retention.room":               {"soon", "retention"},
		"fanout.large_group":           {"1", "fanout.large_group"},
		"fanout.deliveries_per_second": {"", "without space"},
		"rooms.deliveries_per_second":  {" 5", "without space"},
		"http.auth_per_minute":         {strings.Repeat("1", 300), "at most"},
	} {
		if c.want == "at most" {
			c.want = "1 to 256 bytes"
		}
		if _, err := own.With(map[string]string{name: c.value}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s = %q: %v, want an error with %q", name, c.value, err, c.want)
		}
	}
	if own.Limits.Inflight != Default().Limits.Inflight {
		t.Error("the node's own configuration was changed")
	}
}

// What a node takes and refuses, and what holds after its own configuration was read again.
func TestOverlay(t *testing.T) {
	own := Default()
	o := NewOverlay(own)
	fail := errors.New("not now")
	var late []string
	o.Late = func(name string) { late = append(late, name) }
	o.Try = func(c Config) error {
		if c.Limits.Inflight == 13 || c.Limits.Inflight > c.Limits.SendsPerSecond {
			return fail
		}
		return nil
	}
	inForce := func(inflight, sends int) {
		t.Helper()
		if l := o.Config().Limits; l.Inflight != inflight || l.SendsPerSecond != sends {
			t.Errorf("in force: %d, %d; want %d, %d", l.Inflight, l.SendsPerSecond, inflight, sends)
		}
	}
	refused := func(err error, want ...string) {
		t.Helper()
		if got := o.Refused(); err == nil || strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%v, refused are %q, want %q", err, got, want)
		}
	}
	o.base.Limits.Inflight, o.now.Limits.Inflight = 20, 20
	if err := o.Set("limits.inflight", "30"); err != nil {
		t.Fatal(err)
	}
	inForce(30, 50)
	refused(o.Set("limits.inflight", "13"), "limits.inflight")
	inForce(30, 50)
	refused(o.Set("limits.inflight", "lots"), "limits.inflight")
	refused(o.Set("nothing", "1"), "limits.inflight", "nothing")
	if err := o.Unset("nothing"); err != nil {
		t.Error(err)
	}
	// What was refused because of another is taken once that one has changed.
	refused(o.Set("limits.inflight", "70"), "limits.inflight")
	if err := o.Set("limits.sends_per_second", "80"); err != nil {
		t.Fatal(err)
	}
	inForce(70, 80)
	if len(late) != 1 || late[0] != "limits.inflight" || len(o.Refused()) != 0 {
		t.Errorf("late %q, refused %q", late, o.Refused())
	}
	refused(o.Unset("limits.sends_per_second"), "limits.sends_per_second")
	inForce(70, 80)

	// The node's own configuration changes below; what has to wait for a restart stays as it was.
	own.Limits.Inflight, own.Limits.SendsPerSecond, own.Limits.UserSendsPerSecond, own.Limits.Frame = 1, 75, 5, 200<<10
	if err := o.Rebase(own); err != nil {
		t.Fatal(err)
	}
	inForce(70, 75) // and the removal of the other one is possible
	if c := o.Config(); c.Limits.UserSendsPerSecond != 5 || c.Limits.Frame != Default().Limits.Frame || len(o.Refused()) != 0 {
		t.Errorf("%+v, refused %q", c.Limits, o.Refused())
	}
	own.Limits.SendsPerSecond = 60
	if err := o.Rebase(own); err == nil || !strings.Contains(err.Error(), "limits.inflight") || !errors.Is(err, fail) {
		t.Errorf("a configuration that doesn't go with the settings: %v", err)
	}
	inForce(70, 75)
	if got := o.Above([]string{"limits.inflight", "limits.sends_per_second"}); len(got) != 1 || got[0] != "limits.inflight" {
		t.Errorf("above: %q", got)
	}
	if err := o.Unset("limits.inflight"); err != nil {
		t.Error(err)
	}
	inForce(1, 75)
}
