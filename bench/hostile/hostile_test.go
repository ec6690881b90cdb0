package hostile

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gochat-im/gochat/bench/target"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

func TestMain(m *testing.M) {
	patience = 2 * time.Second
	os.Exit(m.Run())
}

// fake is a server that answers every frame by a function of it, and every HTTP request by another.
type fake struct {
	answer func(c net.Conn, f *frame.Frame) (goOn bool)
	http   http.HandlerFunc
}

func listen(t *testing.T) (net.Listener, netip.AddrPort) {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln, ln.Addr().(*net.TCPAddr).AddrPort()
}

func (f *fake) start(t *testing.T) Config {
	t.Helper()
	ln, addr := listen(t)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go f.serve(c)
		}
	}()
	web, webAddr := listen(t)
	srv := &http.Server{Handler: f.http, ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(web) }()
	t.Cleanup(func() { srv.Close() })
	is, err := target.NewIssuer(t.TempDir(), "EdDSA")
	if err != nil {
		t.Fatal(err)
	}
	return Config{
		Addr: addr, HTTP: webAddr, Issuer: is.Name, Public: is.KeyFile,
		KeyFile: filepath.Join(filepath.Dir(is.KeyFile), "issuer.key"), Users: "h", For: 200 * time.Millisecond,
	}
}

func (f *fake) serve(c net.Conn) {
	defer c.Close()
	var in []byte
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		for in = append(in, buf[:n]...); ; {
			fr, n, err := frame.Parse(in, frame.DefaultMax)
			if err != nil {
				var e *code.Error
				if errors.As(err, &e) {
					tell(c, 0, false, e.Code)
				}
				return
			}
			if n == 0 {
				break
			}
			if !f.answer(c, &fr) {
				return
			}
			in = in[n:]
		}
	}
}

func tell(c net.Conn, req uint32, hasReq bool, k code.Code) {
	_, _ = c.Write(packet.AppendError(nil, req, hasReq, code.New(k), id.ConversationID{}))
}

func connack(c net.Conn, f *frame.Frame) {
	b, _ := packet.AppendBody(nil, frame.Connack, frame.FlagRequestID, f.ReqID, &wire.Connack{Version: 1})
	_, _ = c.Write(b)
}

// attackWith runs one kind, by its name, with one client.
func attackWith(t *testing.T, cfg Config, name string) KindResult {
	t.Helper()
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })
	if i < 0 {
		t.Fatalf("no kind %q", name)
	}
	k := kinds[i]
	k.clients, k.every = 1, 50*time.Millisecond
	res, err := run(t.Context(), cfg, []kind{k})
	if err != nil {
		t.Fatal(err)
	}
	if conns, _, _ := res.Totals(); conns == 0 || len(res.Kinds[0].Faults) > 0 {
		t.Errorf("%s: %+v", name, res.Kinds[0])
	}
	return res.Kinds[0]
}

// TestRightAndWrongAnswers: what a kind allows isn't a finding, and everything else is.
func TestRightAndWrongAnswers(t *testing.T) {
	closing := func(k code.Code) func(net.Conn, *frame.Frame) bool {
		return func(c net.Conn, f *frame.Frame) bool { tell(c, 0, false, k); return false }
	}
	after := func(k code.Code) func(net.Conn, *frame.Frame) bool { // CONNACK, then the end at the second frame
		return func(c net.Conn, f *frame.Frame) bool {
			if f.Type == frame.Connect && f.Flags != 0 && len(f.Body) > 0 && f.ReqID == 1 {
				if _, loaded := seen.LoadOrStore(c, true); !loaded {
					connack(c, f)
					return true
				}
			}
			tell(c, 0, false, k)
			return false
		}
	}
	for _, c := range []struct {
		kind   string
		answer func(net.Conn, *frame.Frame) bool
		right  string // a label that must be there
		wrong  string // one that must be a finding; "": none may
	}{
		{"frames before CONNECT", closing(code.NotConnected), endNotConn, ""},
		{"frames before CONNECT", closing(code.Internal), "", goodbye + "internal"},
		{"frames before CONNECT", func(net.Conn, *frame.Frame) bool { return false }, "", cut},
		{"frames before CONNECT", func(c net.Conn, _ *frame.Frame) bool { _, _ = c.Write([]byte{0, 0}); return false }, "", garbled},
		{"forged tokens", closing(code.Unauthenticated), endStranger, ""},
		{"forged tokens", func(c net.Conn, f *frame.Frame) bool { connack(c, f); return false }, "", "connack"},
		{"expired tokens", closing(code.TokenExpired), endExpired, ""},
		{"second CONNECT", after(code.AlreadyConnected), endConnected, ""},
		{"second CONNECT", after(code.BadFrame), "connack", endBadFrame},
		{"length 268435455", func(c net.Conn, f *frame.Frame) bool { connack(c, f); return true }, endTooLarge, ""},
		{"malformed headers", func(c net.Conn, f *frame.Frame) bool {
			if f.Type != frame.Connect {
				tell(c, 0, false, code.BadFrame)
				return false
			}
			connack(c, f)
			return true
		}, endBadFrame, ""},
	} {
		k := attackWith(t, (&fake{answer: c.answer}).start(t), c.kind)
		if c.right != "" && k.Answers[c.right] == 0 {
			t.Errorf("%s: no %q in %v", c.kind, c.right, k.Answers)
		}
		if c.wrong == "" && len(k.Unexpected) > 0 || c.wrong != "" && k.Unexpected[c.wrong] == 0 {
			t.Errorf("%s: findings %v, want %q", c.kind, k.Unexpected, c.wrong)
		}
		r := Result{Kinds: []KindResult{k}}
		if (r.Wrong() == "") != (c.wrong == "") || (r.Unexpected() == 0) != (c.wrong == "") {
			t.Errorf("%s: %q, %d", c.kind, r.Wrong(), r.Unexpected())
		}
	}
}

// seen remembers connections that were welcomed.
var seen sync.Map

// TestResendsMustKeepTheirSeq: an ack of a resend with another seq is a finding.
func TestResendsMustKeepTheirSeq(t *testing.T) {
	for _, moves := range []bool{false, true} {
		var seq atomic.Uint64
		f := &fake{answer: func(c net.Conn, f *frame.Frame) bool {
			if f.Type == frame.Connect {
				connack(c, f)
				return true
			}
			if seq.Add(1) > 20 {
				tell(c, 0, false, code.Flooding)
				return false
			}
			a := packet.Ack{Seq: 7, MessageID: 1}
			if moves {
				a.Seq = seq.Load()
			}
			_, _ = c.Write(packet.AppendSendAck(nil, f.ReqID, a, false))
			return true
		}}
		k := attackWith(t, f.start(t), "flood of resends of one id")
		if (k.Unexpected[moved] > 0) != moves || k.Answers["sendack"] == 0 {
			t.Errorf("moves %v: %v, findings %v", moves, k.Answers, k.Unexpected)
		}
	}
}

func TestHTTPAnswers(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
		label  string
		right  bool
		header string
		kind   string
	}{
		{413, `{"error":{"code":3002,"name":"content_too_large"}}`, "http 413 content_too_large", true, "", "HTTP: body over 192 KiB"},
		{413, `too large`, "http 413 without its error", false, "", "HTTP: body over 192 KiB"},
		{200, `{}`, "http 200", false, "", "HTTP: body over 192 KiB"},
		{429, `{"error":{"code":2003,"name":"rate_limited"}}`, "http 429 rate_limited", true, "Retry-After", "HTTP: logins without end"},
		{429, `{"error":{"code":2003,"name":"rate_limited"}}`, hasty, false, "", "HTTP: logins without end"},
		{401, `{"error":{"code":1001,"name":"unauthenticated"}}`, "http 401 unauthenticated", true, "", "HTTP: pages of others"},
		{401, `{"error":{"code":1001,"name":"unauthenticated"}}`, shared, false, "Access-Control-Allow-Origin", "HTTP: pages of others"},
		{200, `{}`, "http 200", false, "", "HTTP: forged tokens and keys"},
	} {
		f := &fake{http: func(w http.ResponseWriter, r *http.Request) {
			if c.header != "" {
				w.Header().Set(c.header, "1")
			}
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		}}
		k := attackWith(t, f.start(t), c.kind)
		if k.Answers[c.label] == 0 || (len(k.Unexpected) == 0) != c.right {
			t.Errorf("%d %s: %v, findings %v", c.status, c.body, k.Answers, k.Unexpected)
		}
	}
}

func TestForgedTokensAreAllDifferentAndNoneIsGood(t *testing.T) {
	cfg := (&fake{}).start(t)
	is, err := target.LoadIssuer(cfg.Issuer, cfg.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	tk, err := newTokens(is, cfg.KeyFile, cfg.Public)
	if err != nil {
		t.Fatal(err)
	}
	good, err := tk.of("u")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]int{good: -1}
	for i := range forgeries {
		s, err := tk.forged(i, "u")
		if err != nil {
			t.Fatal(err)
		}
		if j, ok := all[s]; ok {
			t.Errorf("forgeries %d and %d are the same", i, j)
		}
		all[s] = i
	}
	if s, err := tk.expired("u"); err != nil || strings.Count(s, ".") != 2 {
		t.Errorf("expired: %q, %v", s, err)
	}
}

// TestTable: whatever must come is allowed, and names are unique.
func TestTable(t *testing.T) {
	names := map[string]bool{}
	for _, k := range kinds {
		if names[k.name] || k.clients < 1 || len(k.allowed) == 0 || k.script == nil {
			t.Errorf("%q is there twice or lacks something", k.name)
		}
		names[k.name] = true
		for _, w := range k.want {
			if !slices.Contains(k.allowed, w) {
				t.Errorf("%s: %s must come and isn't allowed", k.name, w)
			}
		}
		for _, a := range k.allowed {
			name := a
			if strings.HasPrefix(a, "http ") && a != httpCut {
				if name = ""; len(strings.Fields(a)) > 2 {
					name = strings.Fields(a)[2]
				}
			} else {
				name = strings.TrimPrefix(a, goodbye)
			}
			if strings.Contains(name, "_") && !registered(name) {
				t.Errorf("%s: no code is called %s", k.name, name)
			}
		}
	}
	k := KindResult{Answers: map[string]int64{"a": 1}}
	k.judge([]string{"a", "b"}, []string{"b"}, true)
	if r := (Result{Kinds: []KindResult{k}}); r.Unexpected() != 1 || !strings.Contains(r.Wrong(), `never answered with "b"`) {
		t.Errorf("what never came: %+v", k)
	}
}

func registered(name string) bool {
	for c := range code.Code(4000) {
		if c.String() == name {
			return true
		}
	}
	return false
}

// TestChild crosses the pipes.
func TestChild(t *testing.T) {
	cfg := (&fake{answer: func(c net.Conn, _ *frame.Frame) bool { tell(c, 0, false, code.NotConnected); return false }}).start(t)
	cfg.Kinds = "^frames before"
	in, out := childPipes(t, cfg)
	_, _ = io.WriteString(in, "\n")
	c := Child{out: out}
	res, err := c.Result()
	if err != nil || len(res.Kinds) != 1 || res.Kinds[0].Answers[endNotConn] == 0 || res.Seconds == 0 {
		t.Errorf("%+v, %v", res, err)
	}

	in, out = childPipes(t, cfg)
	_ = in.Close() // called off
	if _, err := (&Child{out: out}).Result(); err == nil {
		t.Error("a result though it was called off")
	}
	if _, err := Run(context.Background(), Config{Kinds: "("}); err == nil {
		t.Error("a regular expression that is none")
	}
	if err := RunChild(strings.NewReader("x\n"), io.Discard); err == nil {
		t.Error("a configuration that is none")
	}
}

func childPipes(t *testing.T, cfg Config) (in io.WriteCloser, out io.Reader) {
	t.Helper()
	b, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	go func() { _ = outW.CloseWithError(errors.Join(RunChild(inR, outW), io.EOF)) }()
	if _, err := inW.Write(append(b, '\n')); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { inW.Close() })
	return inW, outR
}
