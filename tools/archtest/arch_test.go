// Package archtest holds the shape of the house: which folder may import which,
// and what nobody may import.
package archtest

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/gochat-im/gochat/"

// A room is a folder with its floor and, within a top-level folder, its order.
// Imports go to a lower floor, or to an earlier room of the same top-level folder;
// siblings don't import each other. The longest matching path counts.
type room struct {
	path  string
	floor int
	order int // within one top-level folder: may import rooms of a lower order
}

var rooms = []room{
	{"protocol", 0, 4}, // tests of what the folder holds
	{"protocol/code", 0, 1},
	{"protocol/id", 0, 1},
	{"protocol/auth", 0, 1},
	{"protocol/trace", 0, 2},
	{"protocol/frame", 0, 2},
	{"protocol/packet", 0, 3},
	{"kitex_gen/wire", 0, 0},
	{"kitex_gen/node", 0, 0},  // what every call between nodes has in common
	{"kitex_gen/logic", 2, 0}, // stubs: for those above alone
	{"kitex_gen/edge", 2, 0},

	{"msgstore/kv", 1, 0},
	{"msgstore/kv/kvtest", 1, 1},
	{"msgstore/kv/memory", 1, 1},
	{"msgstore/kv/pebblekv", 1, 1},
	{"msgstore/kv/tikv", 1, 1},
	{"msgstore/kv/tikv/tikvtest", 1, 2},
	{"msgstore/kv/faultkv", 1, 1},
	{"msgstore/kv/loopkv", 1, 1},
	{"msgstore", 1, 2},
	{"msgstore/migration", 1, 3},
	{"bus", 1, 0},
	{"bus/bustest", 1, 1},
	{"bus/log", 1, 1},
	{"bus/rocketmq", 1, 1},
	{"bus/loopbus", 1, 1},
	{"router/ring", 1, 0},
	{"router/nodes", 1, 0},
	{"router/etcd", 1, 0},
	{"router/nodes/etcdnodes", 1, 1},
	{"router/settings", 1, 1},
	{"router", 1, 2},

	{"services/account/pwhash", 2, 0},
	{"services/account", 2, 1},
	{"services/timeline", 2, 0},
	{"services/conversation", 2, 0},
	{"services/group", 2, 0},
	{"services/room", 2, 0},
	{"services/relation", 2, 0},
	{"services/hook", 2, 0},
	{"services/words", 2, 0},
	{"services/session", 2, 0},
	{"services/self", 2, 0},
	{"services/fanout", 2, 0},
	{"services/repeat", 2, 0},
	{"services/apikey", 2, 0},
	{"services/importer", 2, 0},
	{"edge/conn", 2, 0},
	{"edge/hub", 2, 1},
	{"edge/certs", 2, 0},
	{"edge/tcp", 2, 2},
	{"edge/ws", 2, 2},
	{"edge/sse", 2, 2},
	{"edge/api", 2, 3},
	{"edge/openapi", 2, 0},
	{"edge/openapi/schematest", 2, 0},
	{"edge/rest", 2, 4},
	{"edge/backend", 2, 5},
	{"edge/pages", 2, 4},
	{"edge/admin", 2, 0},

	{"services/link", 3, 0},
	{"services/relay", 3, 0},
	{"services/rpc", 3, 1},
	{"services/remote", 3, 1},

	{"node/config", 4, 0},
	{"node/cluster", 4, 1},
	{"node/storage", 4, 1},
	{"node/logic", 4, 2},
	{"node/edge", 4, 2},
	{"node/migrate", 4, 2},
	{"node", 4, 3},

	{"cmd/gochat/tui", 5, 1},
	{"cmd", 5, 2},
	{"sdk/go", 5, 0},
	{"web", 5, 0},
	{"tools/loopback", 5, 0},
	{"tools/rocketmq/local", 5, 1},
	{"tools/tikvlocal", 5, 0},
	{"tools/cluster/local", 5, 2},
	{"bench", 5, 3},
	{"tools", 5, 4},
}

// sdkMay is all of ours that a client library may import: it must build without the server.
var sdkMay = []string{"protocol/", "kitex_gen/wire", "sdk/go"}

// forbidden lists imports that nobody, or nobody but the named, may have, and why.
var forbidden = []struct {
	prefix string
	except []string
	why    string
}{
	{"github.com/cloudwego/kitex", []string{"services/link", "services/rpc", "services/remote"}, "only the node-to-node floor knows Kitex; generated wire messages are plain data"},
	{"github.com/cloudwego/netpoll", []string{"edge/tcp", "edge/api", "bench"}, "connections reach the rest through the Transport seam; HTTP gives its own connections deadlines"},
	{"github.com/cloudwego/hertz", []string{"edge/api"}, "HTTP stays at the edge"},
	{"github.com/cockroachdb/pebble", []string{"msgstore/kv/pebblekv", "bench", "node"}, "the engine is an adapter: everybody else knows msgstore/kv; node plants its faults there, in test builds"},
	{"go.etcd.io/etcd/server", []string{"router/etcd/etcdtest", "tools/cluster"}, "a server of etcd is for tests alone"},
	{"go.etcd.io/etcd", []string{"router", "cmd", "node", "msgstore/kv/tikv", "tools/cluster"}, "who the nodes are is asked of the router; TiKV's placement drivers speak etcd's protocol"},
	{"go.uber.org/zap", []string{"router/etcd", "msgstore/kv/tikv"}, "logging is an injected *slog.Logger"},
	{"github.com/tikv", []string{"msgstore/kv/tikv", "tools"}, "the client is an adapter's: everybody else knows msgstore/kv"},
	{"go.uber.org/zap", []string{"msgstore/kv/tikv"}, "logging is an injected *slog.Logger; the client's own is bridged there"},
	{"github.com/golang-jwt/jwt", []string{"services/account", "bench", "tools"}, "tokens are checked in one place"},
	{"github.com/spf13/cobra", []string{"cmd"}, "flags stop at cmd"},
	{"github.com/knadh/koanf", []string{"cmd", "node"}, "configuration is read in one place; packages get structs"},
	{"github.com/apache/rocketmq-client-go", []string{"bus/rocketmq"}, "the broker is an adapter: everybody else knows bus"},
	{"encoding/gob", nil, "stored and sent formats are ours and versioned"},
	{"log", nil, "logging is an injected *slog.Logger"},
	{"github.com/sirupsen/logrus", nil, "logging is an injected *slog.Logger"},
	{"github.com/pkg/errors", nil, "errors wrap with %w"},
	{"math/rand", nil, "math/rand/v2 replaces it; secrets come from crypto/rand"},
	{"unsafe", []string{"protocol/packet", "bench"}, "only the codec and the load generator may reinterpret memory, and must say why"},
}

type pkg struct {
	ImportPath string
	Imports    []string
	GoFiles    []string
}

// packages lists every package as it is built, and once more as test builds have it. Tests
// themselves may import what they need: they are no part of what is built.
func packages(t *testing.T) []pkg {
	t.Helper()
	return append(listed(t, ""), listed(t, "e2e,faultpoints")...)
}

func listed(t *testing.T, tags string) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-tags", tags, "-json=ImportPath,Imports,GoFiles", "./...")
	cmd.Dir = "../.."
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var ps []pkg
	for dec := json.NewDecoder(out); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("go list: %v", err)
	}
	return ps
}

func within(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, strings.TrimSuffix(folder, "/")+"/")
}

func roomOf(path string) (room, bool) {
	var best room
	found := false
	for _, r := range rooms {
		if within(path, r.path) && len(r.path) >= len(best.path) {
			best, found = r, true
		}
	}
	return best, found
}

func top(path string) string { return strings.SplitN(path, "/", 2)[0] }

func TestImportsGoDownward(t *testing.T) {
	for _, p := range packages(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		fr, ok := roomOf(from)
		if !ok {
			t.Errorf("%s stands on no floor: add it to rooms", from)
			continue
		}
		for _, imp := range p.Imports {
			if !strings.HasPrefix(imp, module) {
				continue
			}
			to := strings.TrimPrefix(imp, module)
			tr, ok := roomOf(to)
			if !ok || within(from, tr.path) && fr.path == tr.path {
				continue // unknown rooms are reported where they are listed; a room may use itself
			}
			switch {
			case tr.floor < fr.floor:
			case fr.floor == 0 && to == "kitex_gen/wire": // plain data, below everything
			case tr.floor == fr.floor && top(from) == top(to) && tr.order < fr.order:
			case tr.floor == fr.floor && fr.floor == 5 && tr.order < fr.order:
			case fr.floor == 1 && within(to, "msgstore/kv") && tr.path == "msgstore/kv":
			default:
				t.Errorf("%s (floor %d) imports %s (floor %d): imports go strictly downward", from, fr.floor, to, tr.floor)
			}
		}
	}
}

func TestSDKStandsOnTheProtocolAlone(t *testing.T) {
	for _, p := range packages(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		if !within(from, "sdk/go") {
			continue
		}
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			allowed := false
			for _, may := range sdkMay {
				allowed = allowed || within(to, may)
			}
			if !allowed {
				t.Errorf("%s imports %s: a client library stands on protocol alone", from, to)
			}
		}
	}
}

func TestForbiddenImports(t *testing.T) {
	for _, p := range packages(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		if within(from, "kitex_gen") {
			continue
		}
	imports:
		for _, imp := range p.Imports {
			for _, f := range forbidden {
				if !within(imp, f.prefix) || f.prefix == "log" && imp != "log" || f.prefix == "math/rand" && imp != "math/rand" {
					continue
				}
				for _, e := range f.except {
					if within(from, e) {
						continue imports
					}
				}
				t.Errorf("%s imports %s: %s", from, imp, f.why)
			}
		}
	}
}

// Packages stay small enough to be read in one sitting.
func TestPackagesStaySmall(t *testing.T) {
	for _, p := range packages(t) {
		if n := len(p.GoFiles); n > 20 {
			t.Errorf("%s has %d files, more than 20: split it", p.ImportPath, n)
		}
	}
}

var badNames = []string{"util", "utils", "common", "helper", "helpers", "manager", "misc", "pkg"}

func TestNoBags(t *testing.T) {
	for _, p := range packages(t) {
		for _, part := range strings.Split(strings.TrimPrefix(p.ImportPath, module), "/") {
			for _, bad := range badNames {
				if part == bad {
					t.Errorf("%s: a package named %q says nothing about what is in it", p.ImportPath, bad)
				}
			}
		}
	}
}
