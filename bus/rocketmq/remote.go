package rocketmq

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// remote asks name servers and brokers what the library has no call for, or one that
// doesn't look at the answer: topics, positions of groups, dead letters. It is RocketMQ's
// remoting protocol with JSON headers, a call at a time on each connection.
//
//	total length, 4 bytes | type of header (0: JSON) and its length, 1 and 3 bytes | header | body
type remote struct {
	nameServers          []string
	accessKey, secretKey string
	opaque               atomic.Int32

	mu     sync.Mutex
	idle   map[string]net.Conn
	closed bool
}

// Requests, and answers other than 0, by RocketMQ's numbers.
const (
	reqPull            = 11
	reqGroupOffset     = 14
	reqSetGroupOffset  = 15
	reqCreateTopic     = 17
	reqMaxOffset       = 30
	reqMinOffset       = 31
	reqRoute           = 105
	reqCluster         = 106
	reqCreateGroup     = 200
	ansTopicNotExist   = 17
	ansPullNotFound    = 19
	ansPullOffsetMoved = 21
	ansQueryNotFound   = 22
	ansGroupNotExist   = 26
)

const (
	remoteTimeout = 5 * time.Second
	maxAnswer     = 64 << 20
)

// refusedError is an answer other than 0.
type refusedError struct {
	code   int
	remark string
}

func (e *refusedError) Error() string { return fmt.Sprintf("answer %d: %s", e.code, e.remark) }

func answered(err error, code int) bool {
	var r *refusedError
	return errors.As(err, &r) && r.code == code
}

func newRemote(c *Config) *remote {
	return &remote{nameServers: c.NameServers, accessKey: c.AccessKey, secretKey: c.SecretKey, idle: make(map[string]net.Conn)}
}

func (r *remote) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for addr, c := range r.idle {
		_ = c.Close()
		delete(r.idle, addr)
	}
}

// Resolve returns the name servers' addresses, for the library, which wants no host names.
func (r *remote) Resolve() []string {
	var addrs []string
	for _, s := range r.nameServers {
		host, port, err := net.SplitHostPort(s)
		if err != nil {
			continue
		}
		if net.ParseIP(host) != nil {
			addrs = append(addrs, s)
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), remoteTimeout)
		ips, err := net.DefaultResolver.LookupHost(ctx, host)
		cancel()
		if err != nil || len(ips) == 0 {
			continue
		}
		slices.Sort(ips)
		addrs = append(addrs, net.JoinHostPort(ips[0], port))
	}
	return addrs
}

// Description is for the library's log.
func (r *remote) Description() string { return "name servers " + strings.Join(r.nameServers, ", ") }

// header is that of a request or an answer.
type header struct {
	Code                    int               `json:"code"`
	Language                string            `json:"language"`
	Version                 int               `json:"version"`
	Opaque                  int32             `json:"opaque"`
	Flag                    int               `json:"flag"`
	Remark                  string            `json:"remark,omitempty"`
	ExtFields               map[string]string `json:"extFields,omitempty"`
	SerializeTypeCurrentRPC string            `json:"serializeTypeCurrentRPC,omitempty"`
}

// call asks addr and returns the fields and the body of its answer.
func (r *remote) call(ctx context.Context, addr string, code int, fields map[string]string, body []byte) (map[string]string, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, remoteTimeout)
	defer cancel()
	c, reused, err := r.conn(ctx, addr)
	if err != nil {
		return nil, nil, fmt.Errorf("rocketmq: call %s: %w", addr, err)
	}
	h, answer, err := r.exchange(ctx, c, code, fields, body)
	if err != nil && reused && ctx.Err() == nil {
		// The connection may have been closed while it was idle.
		_ = c.Close()
		if c, err = new(net.Dialer).DialContext(ctx, "tcp", addr); err != nil {
			return nil, nil, fmt.Errorf("rocketmq: call %s: %w", addr, err)
		}
		h, answer, err = r.exchange(ctx, c, code, fields, body)
	}
	if err != nil {
		_ = c.Close()
		if ctx.Err() != nil {
			err = ctx.Err() // rather than what it did to the connection
		}
		return nil, nil, fmt.Errorf("rocketmq: request %d to %s: %w", code, addr, err)
	}
	r.keep(addr, c)
	if h.Code != 0 {
		return h.ExtFields, answer, fmt.Errorf("rocketmq: request %d to %s: %w", code, addr, &refusedError{h.Code, h.Remark})
	}
	return h.ExtFields, answer, nil
}

func (r *remote) conn(ctx context.Context, addr string) (c net.Conn, reused bool, err error) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil, false, ErrClosed
	}
	c = r.idle[addr]
	delete(r.idle, addr)
	r.mu.Unlock()
	if c != nil {
		return c, true, nil
	}
	c, err = new(net.Dialer).DialContext(ctx, "tcp", addr)
	return c, false, err
}

func (r *remote) keep(addr string, c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.idle[addr] != nil {
		_ = c.Close()
		return
	}
	r.idle[addr] = c
}

func (r *remote) exchange(ctx context.Context, c net.Conn, code int, fields map[string]string, body []byte) (*header, []byte, error) {
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return nil, nil, err
	}
	end := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now()) })
	defer end()
	req := header{Code: code, Language: "GO", Version: 431, Opaque: r.opaque.Add(1), ExtFields: r.signed(fields, body), SerializeTypeCurrentRPC: "JSON"}
	head, err := json.Marshal(&req)
	if err != nil {
		return nil, nil, err
	}
	out := binary.BigEndian.AppendUint32(nil, uint32(4+len(head)+len(body)))
	out = binary.BigEndian.AppendUint32(out, uint32(len(head)))
	if _, err := c.Write(append(append(out, head...), body...)); err != nil {
		return nil, nil, err
	}
	for {
		h, body, err := readAnswer(c)
		if err != nil {
			return nil, nil, err
		}
		if h.Flag&1 != 0 && h.Opaque == req.Opaque {
			return h, body, nil
		}
		// A request of the broker's, to a client that it takes for a consumer: nothing to us.
	}
}

func readAnswer(c io.Reader) (*header, []byte, error) {
	var lengths [8]byte
	if _, err := io.ReadFull(c, lengths[:]); err != nil {
		return nil, nil, err
	}
	total, head := binary.BigEndian.Uint32(lengths[:]), binary.BigEndian.Uint32(lengths[4:])
	if total < 4 || total > maxAnswer || head>>24 != 0 || head > total-4 {
		return nil, nil, fmt.Errorf("an answer of %d bytes with a header of %#x", total, head)
	}
	b := make([]byte, total-4)
	if _, err := io.ReadFull(c, b); err != nil {
		return nil, nil, err
	}
	h := new(header)
	if err := json.Unmarshal(b[:head], h); err != nil {
		return nil, nil, fmt.Errorf("header of an answer: %w", err)
	}
	return h, b[head:], nil
}

// signed adds the signature of RocketMQ's access control: over the fields' values in the
// order of their names, and the body.
func (r *remote) signed(fields map[string]string, body []byte) map[string]string {
	if r.accessKey == "" {
		return fields
	}
	all := make(map[string]string, len(fields)+2)
	for k, v := range fields {
		all[k] = v
	}
	all["AccessKey"] = r.accessKey
	names := make([]string, 0, len(all))
	for k := range all {
		names = append(names, k)
	}
	slices.Sort(names)
	mac := hmac.New(sha1.New, []byte(r.secretKey))
	for _, k := range names {
		mac.Write([]byte(all[k]))
	}
	mac.Write(body)
	all["Signature"] = base64.StdEncoding.EncodeToString(mac.Sum(nil))
	return all
}

// ask asks the name servers, one after another until one answers.
func (r *remote) ask(ctx context.Context, code int, fields map[string]string) ([]byte, error) {
	var first error
	for _, addr := range r.Resolve() {
		_, body, err := r.call(ctx, addr, code, fields, nil)
		if err == nil || answered(err, ansTopicNotExist) {
			return body, err
		}
		if first == nil {
			first = err
		}
	}
	if first == nil {
		first = errors.New("rocketmq: no name server has an address")
	}
	return nil, first
}

// strict makes JSON of what RocketMQ writes: numbers as names of members, without quotes.
func strict(b []byte) []byte {
	var out bytes.Buffer
	quoted := false
	for i := 0; i < len(b); i++ {
		switch {
		case b[i] == '\\' && quoted && i+1 < len(b):
			out.WriteByte(b[i])
			i++
		case b[i] == '"':
			quoted = !quoted
		case !quoted && (b[i] == '{' || b[i] == ','):
			n := i + 1
			for n < len(b) && b[n] >= '0' && b[n] <= '9' {
				n++
			}
			if n > i+1 && n < len(b) && b[n] == ':' {
				out.WriteByte(b[i])
				out.WriteString(strconv.Quote(string(b[i+1 : n])))
				i = n - 1
				continue
			}
		}
		out.WriteByte(b[i])
	}
	return out.Bytes()
}
