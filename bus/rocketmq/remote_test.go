package rocketmq

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/rocketmq-client-go/v2/primitive"
)

// broker is a name server and a broker in one, as far as remote speaks with them: it
// answers requests by their numbers.
type broker struct {
	t    *testing.T
	addr string

	mu     sync.Mutex
	answer map[int]func(h *header, body []byte) (*header, string)
	asked  []int
	conns  []net.Conn
}

func newBroker(t *testing.T) *broker {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &broker{t: t, addr: l.Addr().String(), answer: map[int]func(*header, []byte) (*header, string){}}
	t.Cleanup(func() {
		l.Close()
		b.hangUp()
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.conns = append(b.conns, c)
			b.mu.Unlock()
			go b.serve(c)
		}
	}()
	return b
}

// hangUp closes all connections.
func (b *broker) hangUp() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.conns {
		c.Close()
	}
	b.conns = nil
}

func (b *broker) serve(c net.Conn) {
	for {
		h, body, err := readAnswer(c)
		if err != nil {
			return
		}
		b.mu.Lock()
		b.asked = append(b.asked, h.Code)
		f := b.answer[h.Code]
		b.mu.Unlock()
		ans, text := &header{Code: 3, Remark: "unknown"}, ""
		if f != nil {
			ans, text = f(h, body)
		}
		ans.Opaque, ans.Flag = h.Opaque, 1
		// A request of the broker's own comes before.
		for _, h := range []*header{{Code: 40, Opaque: h.Opaque}, ans} {
			head, err := json.Marshal(h)
			if err != nil {
				return
			}
			body := ""
			if h == ans {
				body = text
			}
			out := binary.BigEndian.AppendUint32(nil, uint32(4+len(head)+len(body)))
			out = binary.BigEndian.AppendUint32(out, uint32(len(head)))
			if _, err := c.Write(append(append(out, head...), body...)); err != nil {
				return
			}
		}
	}
}

func (b *broker) on(code int, f func(h *header, body []byte) (*header, string)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer[code] = f
}

func (b *broker) says(code int, ans header, body string) {
	b.on(code, func(*header, []byte) (*header, string) { a := ans; return &a, body })
}

func (b *broker) remote(set func(c *Config)) *remote {
	c := valid()
	c.NameServers = []string{b.addr}
	if set != nil {
		set(&c)
	}
	r := newRemote(&c)
	b.t.Cleanup(r.close)
	return r
}

func (b *broker) count(code int) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.asked {
		if c == code {
			n++
		}
	}
	return n
}

func (b *broker) route(queues string) string {
	return `{"brokerDatas":[{"brokerAddrs":{0:"` + b.addr + `",1:"10.0.0.1:1"},"brokerName":"a,0:x"}],"queueDatas":[` + queues + `]}`
}

const fourQueues = `{"brokerName":"a,0:x","perm":6,"readQueueNums":4,"writeQueueNums":5}`

// A topic that isn't there is created once, on masters, and used when name servers know it.
func TestEnsureTopic(t *testing.T) {
	b := newBroker(t)
	r := b.remote(nil)
	b.says(reqCluster, header{}, `{"brokerAddrTable":{"a":{"brokerAddrs":{0:"`+b.addr+`",1:"10.0.0.1:1"}},"b":{"brokerAddrs":{1:"10.0.0.2:1"}}}}`)
	b.on(reqCreateTopic, func(h *header, _ []byte) (*header, string) {
		if h.ExtFields["topic"] != "new" || h.ExtFields["readQueueNums"] != "4" || h.ExtFields["perm"] != "6" {
			t.Errorf("created: %v", h.ExtFields)
		}
		return &header{}, ""
	})
	asked := 0
	b.on(reqRoute, func(*header, []byte) (*header, string) {
		switch asked++; {
		case asked <= 2:
			return &header{Code: ansTopicNotExist}, ""
		case asked == 3:
			return &header{}, b.route("")
		}
		return &header{}, b.route(fourQueues + `,{"brokerName":"w","perm":2,"readQueueNums":4,"writeQueueNums":4}`)
	})
	rt, err := r.ensureTopic(t.Context(), "new", 4)
	if err != nil {
		t.Fatal(err)
	}
	qs := rt.queues("new")
	if len(qs) != 4 || qs[3] != (primitive.MessageQueue{Topic: "new", BrokerName: "a,0:x", QueueId: 3}) || rt.master("a,0:x") != b.addr || rt.master("w") != "" {
		t.Errorf("queues %v of %+v", qs, rt)
	}
	if n := b.count(reqCreateTopic); n != 1 {
		t.Errorf("created %d times", n)
	}
	if _, err := r.ensureTopic(t.Context(), "new", 4); err != nil || b.count(reqCreateTopic) != 1 {
		t.Errorf("an existing topic: %v, created %d times", err, b.count(reqCreateTopic))
	}

	b.says(reqRoute, header{Code: ansTopicNotExist}, "")
	ctx, cancel := context.WithTimeout(t.Context(), 3*routePoll)
	defer cancel()
	if _, err := r.ensureTopic(ctx, "new", 4); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a topic that never comes: %v", err)
	}
	b.says(reqRoute, header{Code: 1, Remark: "out of order"}, "")
	if _, err := r.ensureTopic(t.Context(), "new", 4); err == nil || !strings.Contains(err.Error(), "out of order") {
		t.Errorf("a name server that refuses: %v", err)
	}
	b.says(reqRoute, header{}, "{")
	if _, err := r.ensureTopic(t.Context(), "new", 4); err == nil {
		t.Error("an unreadable route is taken")
	}
}

// A new group begins where each queue ends; one that has a position keeps it.
func TestJoinGroup(t *testing.T) {
	b := newBroker(t)
	r := b.remote(nil)
	b.says(reqRoute, header{}, b.route(fourQueues))
	var set []string
	known := false
	b.on(reqSetGroupOffset, func(h *header, _ []byte) (*header, string) {
		if !known {
			return &header{Code: ansGroupNotExist}, ""
		}
		set = append(set, h.ExtFields["queueId"]+":"+h.ExtFields["commitOffset"])
		return &header{}, ""
	})
	b.on(reqCreateGroup, func(_ *header, body []byte) (*header, string) {
		known = true
		if !bytes.Contains(body, []byte(`"groupName":"g"`)) {
			t.Errorf("created: %s", body)
		}
		return &header{}, ""
	})
	b.on(reqGroupOffset, func(h *header, _ []byte) (*header, string) {
		if h.ExtFields["queueId"] == "2" {
			return &header{ExtFields: map[string]string{"offset": "5"}}, ""
		}
		return &header{Code: ansQueryNotFound}, ""
	})
	b.on(reqMaxOffset, func(h *header, _ []byte) (*header, string) {
		return &header{ExtFields: map[string]string{"offset": "10" + h.ExtFields["queueId"]}}, ""
	})
	if err := r.joinGroup(t.Context(), "g", "topic"); err != nil {
		t.Fatal(err)
	}
	slices.Sort(set)
	if got := strings.Join(set, " "); got != "0:100 1:101 3:103" || b.count(reqCreateGroup) != 1 {
		t.Errorf("positions %s, created %d times", got, b.count(reqCreateGroup))
	}
	for _, code := range []int{reqGroupOffset, reqMaxOffset, reqSetGroupOffset, reqRoute} {
		b.says(code, header{Code: 1}, "")
		if err := r.joinGroup(t.Context(), "g", "topic"); err == nil {
			t.Errorf("joined though request %d is refused", code)
		}
		b.on(code, map[int]func(*header, []byte) (*header, string){
			reqGroupOffset: func(*header, []byte) (*header, string) { return &header{Code: ansQueryNotFound}, "" },
			reqMaxOffset: func(*header, []byte) (*header, string) {
				return &header{ExtFields: map[string]string{"offset": "1"}}, ""
			},
			reqSetGroupOffset: func(*header, []byte) (*header, string) { return &header{}, "" },
			reqRoute:          func(*header, []byte) (*header, string) { return &header{}, b.route(fourQueues) },
		}[code])
	}
	if err := r.joinGroup(t.Context(), "g", "topic"); err != nil {
		t.Error(err)
	}
}

// A connection that was closed while it was idle is made anew; a server that is away is an
// error; the next name server is asked then.
func TestConnections(t *testing.T) {
	b := newBroker(t)
	b.says(reqRoute, header{}, b.route(fourQueues))
	r := b.remote(func(c *Config) { c.NameServers = []string{"127.0.0.1:1", "no.such.host.invalid:1", c.NameServers[0]} })
	for range 3 {
		if _, err := r.route(t.Context(), "t"); err != nil {
			t.Fatal(err)
		}
		b.hangUp()
	}
	b.on(reqRoute, func(*header, []byte) (*header, string) { time.Sleep(200 * time.Millisecond); return &header{}, "" })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := r.route(ctx, "t"); err == nil {
		t.Error("an answer in spite of its context")
	}
	r.close()
	if _, err := r.route(t.Context(), "t"); !errors.Is(err, ErrClosed) && err == nil {
		t.Errorf("after its end: %v", err)
	}
	nobody := newRemote(&Config{})
	if _, err := nobody.route(t.Context(), "t"); err == nil {
		t.Error("an answer of nobody")
	}
}

func TestAnswersAreBounded(t *testing.T) {
	for name, b := range map[string][]byte{
		"too long":         {0x7f, 0, 0, 0, 0, 0, 0, 0},
		"too short":        {0, 0, 0, 1, 0, 0, 0, 0},
		"header beyond":    {0, 0, 0, 6, 0, 0, 0, 9, 1, 2},
		"another encoding": {0, 0, 0, 6, 1, 0, 0, 2, 1, 2},
		"no JSON":          {0, 0, 0, 6, 0, 0, 0, 2, 1, 2},
		"cut":              {0, 0, 0, 6, 0, 0, 0, 2, 1},
		"nothing":          {},
	} {
		if _, _, err := readAnswer(bytes.NewReader(b)); err == nil {
			t.Errorf("%s: read", name)
		}
	}
}

func TestSignature(t *testing.T) {
	r := newRemote(&Config{AccessKey: "key", SecretKey: "secret"})
	got := r.signed(map[string]string{"topic": "t", "a": "b"}, []byte("body"))
	// HMAC-SHA1 of "key" (AccessKey), "b" (a), "t" (topic), "body" under "secret".
	if got["AccessKey"] != "key" || got["Signature"] != "sHrC4BF/Jn5IexddrXlzlB8hD2A=" {
		t.Errorf("%v", got)
	}
}

func TestStrict(t *testing.T) {
	for in, want := range map[string]string{
		`{0:"a",12:{3:4}}`:         `{"0":"a","12":{"3":4}}`,
		`{"a,1:b\"{2:":"{0:",5:6}`: `{"a,1:b\"{2:":"{0:","5":6}`,
		`[1,2]`:                    `[1,2]`,
		`{"\\":1,2:3}`:             `{"\\":1,"2":3}`,
	} {
		if got := string(strict([]byte(in))); got != want {
			t.Errorf("%s is %s, want %s", in, got, want)
		}
	}
}

func TestConfig(t *testing.T) {
	for name, set := range map[string]func(c *Config){
		"no name servers": func(c *Config) { c.NameServers = nil },
		"no port":         func(c *Config) { c.NameServers = []string{"host"} },
		"half a key":      func(c *Config) { c.AccessKey = "k" },
		"topic":           func(c *Config) { c.Topic = "%DLQ%x" },
		"node":            func(c *Config) { c.Node = "a#b" },
		"publisher":       func(c *Config) { c.Publisher = 0 },
		"read":            func(c *Config) { c.Read = nil },
		"group":           func(c *Config) { c.Watched = "a b" },
		"event":           func(c *Config) { c.MaxEvent = 4 << 20 },
		"pack":            func(c *Config) { c.PackBytes = 2 << 20 },
		"limit":           func(c *Config) { c.Batch = -1 },
		"duration":        func(c *Config) { c.Late = -1 },
	} {
		c := valid()
		set(&c)
		if _, err := Open(t.Context(), c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestClientNames(t *testing.T) {
	c := valid()
	one := "10.0.0.1@" + instance(&c, "fanout")
	if nodeOf(one) != "n" || nodeOf("10.0.0.1@x") != "x" || nodeOf("x") != "" {
		t.Errorf("nodes of %s: %q, %q, %q", one, nodeOf(one), nodeOf("10.0.0.1@x"), nodeOf("x"))
	}
	all := []string{one, "10.0.0.1@m#1"}
	for _, tt := range []struct{ nodes, want []string }{
		{[]string{"n"}, all[:1]},
		{[]string{"m", "n"}, all},
		{nil, all},
		{[]string{"else"}, all},
	} {
		if got := living(all, tt.nodes); !slices.Equal(got, tt.want) {
			t.Errorf("of %v live %v: %v", all, tt.nodes, got)
		}
	}
}

// The library's log is kept short, and nothing of messages gets into it.
func TestBridge(t *testing.T) {
	var out bytes.Buffer
	b := &bridge{log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})), last: map[string]*repeats{}}
	secret := map[string]any{"messages": []string{"hello bob"}, "message": "hello bob", "topic": "t", "underlayError": io.EOF, "MessageQueue": struct{ s string }{"hello bob"}}
	for range 100 {
		b.Warning("it failed", secret)
		b.Debug("chatter", secret)
	}
	b.Info("info", nil)
	b.Error("error", secret)
	b.Fatal("fatal", nil)
	b.Level("debug")
	if err := b.OutputPath("/tmp/x"); err != nil {
		t.Error(err)
	}
	got := out.String()
	if strings.Contains(got, "bob") || strings.Count(got, "\n") != 4 || !strings.Contains(got, `msg="it failed" topic=t underlayError=EOF`) {
		t.Errorf("%s", got)
	}
	b.last["it failed"].at = time.Now().Add(-repeatAfter)
	out.Reset()
	b.Warning("it failed", nil)
	if got := out.String(); !strings.Contains(got, "repeated=99") {
		t.Errorf("%s", got)
	}
}
