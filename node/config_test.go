package node

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestPrintedConfigurationReadsBack(t *testing.T) {
	want := Default()
	want.Limits.Heartbeat = 90 * time.Second
	want.Storage.Cache = 1<<20 + 1
	want.TCP.ProxyFrom = []string{"10.0.0.0/8", "192.168.0.0/16"}
	want.HTTP.TrustedProxies, want.HTTP.Origins = []string{}, []string{}
	want.Issuers = []Issuer{{Issuer: "https://example.com", Algorithm: "HS256", KeyFile: "/k", Prefix: "ex:"}}
	want.Drain.Alternatives = []string{"other:7070"}
	var b bytes.Buffer
	if err := Print(&b, want); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "gochat.yaml")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path, nil, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read back:\n%+v\nwant:\n%+v", got, want)
	}
}

func TestSourcesOfConfiguration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gochat.yaml")
	if err := os.WriteFile(path, []byte("tcp: {listen: '127.0.0.1:1'}\nhttp: {listen: '127.0.0.1:2'}\ndata: /from/file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := Load(path, []string{"GOCHAT_HTTP__LISTEN=127.0.0.1:22", "GOCHAT_DATA=/from/env", "GOCHAT_LIMITS__HANDSHAKE=3s", "GOCHAT_STORAGE__CACHE=8MiB", "HOME=/x"},
		map[string]any{"data": "/from/flag"})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.TCP.Listen != "127.0.0.1:1" || cfg.HTTP.Listen != "127.0.0.1:22" || cfg.Data != "/from/flag" || cfg.Limits.Handshake != 3*time.Second || cfg.Storage.Cache != 8<<20 {
		t.Errorf("the later source must win: %+v", cfg)
	}
	if cfg.Limits.Heartbeat != Default().Limits.Heartbeat {
		t.Errorf("what nobody sets keeps its default: %v", cfg.Limits.Heartbeat)
	}
}

func TestWrongConfigurationIsRefused(t *testing.T) {
	for _, c := range []struct{ yaml, want string }{
		{"nonsense: 1", "nonsense"},
		{"tcp: {lisen: 'x'}", "lisen"},
		{"limits: {handshake: soon}", "handshake"},
		{"limits: {content: 1MiB}", "limits.content"},
		{"limits: {frame: 4KiB}", "limits.frame"},
		{"log: {level: loud}", "log.level"},
		{"limits: {connections: -1}", "limits.connections"},
		{"storage: {cache: huge}", "size"},
		{"tcp: {proxy_from: ['10.0.0.1']}", "tcp.proxy_from"},
		{"issuers: [{issuer: x, key_file: k, algorithm: none}]", "algorithm"},
		{"issuers: [{algorithm: HS256}]", "key_file"},
		{"limits: {heartbeat_min: 5m}", "heartbeat"},
		{"devices: {per_user: 0}", "devices.per_user"},
		{"fanout: {large_group: 1}", "fanout.large_group"},
		{"fanout: {audience_idle: 0s}", "fanout.audience_idle"},
		{"fanout: {deliveries_per_second: -1}", "fanout.deliveries_per_second"},
		{"devices: {per_kind: -1}", "devices.per_kind"},
		{"drain: {deadline: 0s}", "drain"},
		{"drain: {alternatives: [nowhere]}", "drain.alternatives"},
		{"a: [", "reading configuration"},
	} {
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, []byte(c.yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path, nil, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one that names %q", c.yaml, err, c.want)
		}
	}
}
