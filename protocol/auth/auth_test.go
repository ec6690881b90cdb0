package auth_test

import (
	"encoding/json"
	"testing"

	"github.com/gochat-im/gochat/protocol/auth"
)

func TestDeviceKind(t *testing.T) {
	for in, want := range map[string]auth.DeviceKind{
		`0`: 0, `1`: 1, `5`: 5, `6`: 0, `257`: 0, `4294967295`: 0, `null`: 0,
		`"unknown"`: 0, `"phone"`: 1, `"tablet"`: 2, `"desktop"`: 3, `"web"`: 4, `"bot"`: 5, `"toaster"`: 0, `""`: 0,
	} {
		var c auth.Credentials
		if err := json.Unmarshal([]byte(`{"device_kind":`+in+`}`), &c); err != nil || c.DeviceKind != want {
			t.Errorf("%s: %d, %v", in, c.DeviceKind, err)
		}
	}
	for _, in := range []string{`-1`, `1.5`, `4294967296`, `true`, `[]`, `{}`, `"\`} {
		if err := json.Unmarshal([]byte(`{"device_kind":`+in+`}`), new(auth.Credentials)); err == nil {
			t.Errorf("%s was read", in)
		}
	}
	b, err := json.Marshal(auth.Credentials{Name: "n", Password: "p", DeviceKind: 3})
	if err != nil || string(b) != `{"name":"n","password":"p","device_kind":3}` {
		t.Errorf("%s, %v", b, err)
	}
}
