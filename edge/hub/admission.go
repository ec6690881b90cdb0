package hub

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

const shards = 64

// addresses counts connections by the address that they come from.
type addresses struct {
	seed  maphash.Seed
	shard [shards]struct {
		mu sync.Mutex
		m  map[netip.Addr]*address
	}
}

type address struct {
	rate          conn.Bucket // of new connections
	conns         int32
	strangers     int32 // of conns, those not logged in
	lastConnected int64 // nanoseconds since the hub's start
}

// addressKey is what limits count by: an IPv4 address, or the /64 that one IPv6 site has.
func addressKey(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

func (as *addresses) with(a netip.Addr, fn func(m map[netip.Addr]*address, key netip.Addr)) {
	key := addressKey(a)
	s := &as.shard[maphash.Comparable(as.seed, key)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = make(map[netip.Addr]*address)
	}
	fn(s.m, key)
}

// enter counts a new connection from a, or refuses it.
func (h *Hub) enter(a netip.Addr) (err *code.Error) {
	if !a.IsValid() {
		return nil
	}
	h.addrs.with(a, func(m map[netip.Addr]*address, key netip.Addr) {
		e := m[key]
		if e == nil {
			e = new(address)
			m[key] = e
		}
		now, limits := h.nanos(), h.limits.Load()
		switch {
		case int(e.conns) >= limits.PerAddress:
			err = code.Newf(code.TooManyConnections, "too many connections from this address")
		case int(e.strangers) >= limits.StrangersPerAddress:
			err = code.Newf(code.TooManyConnections, "too many connections from this address wait for their login")
		default:
			if wait := e.rate.Take(now, limits.connects); wait > 0 {
				err = code.Newf(code.TooManyConnections, "too many new connections from this address")
				err.RetryAfter = max(wait, time.Second)
				return
			}
			e.conns++
			e.strangers++
			e.lastConnected = now
		}
	})
	return err
}

// leave counts one connection from a less; stranger: it hadn't logged in.
func (h *Hub) leave(a netip.Addr, stranger bool) {
	if !a.IsValid() {
		return
	}
	h.addrs.with(a, func(m map[netip.Addr]*address, key netip.Addr) {
		e := m[key]
		if e == nil {
			return
		}
		e.conns--
		if stranger {
			e.strangers--
		}
	})
}

// known notes that a connection from a is no stranger's any more; returns: it isn't a new one either.
func (h *Hub) known(a netip.Addr, returns bool) {
	if !a.IsValid() {
		return
	}
	h.addrs.with(a, func(m map[netip.Addr]*address, key netip.Addr) {
		e := m[key]
		if e == nil {
			return
		}
		e.strangers--
		if returns {
			e.rate.Return(h.limits.Load().connects)
		}
	})
}

// Returns implements conn.Host. Who comes back waits for the login like anybody else, but neither counts as a stranger
// meanwhile nor as a new connection of the address: the clients of an edge that left all come at once, and many from one
// address. What comes before the proof, a TLS handshake for one, is as limited as ever; and nobody's token is taken
// for proof time and again.
func (h *Hub) Returns(c *conn.Conn, user id.UserID) bool {
	if !h.returns.take(maphash.String(h.users.seed, string(user)), h.nanos()) {
		return false
	}
	h.returned.Add(1)
	h.strangers.Add(-1)
	h.known(c.RemoteAddr().Addr(), true)
	return true
}

// How often a user's resume tokens are taken for proof.
const (
	returnsTime    = int64(10 * time.Second)
	returnsPerUser = 4       // within returnsTime or a little more: devices, and attempts that failed
	returnsMost    = 1 << 18 // users to remember in each returnsTime; of others none is taken
)

// returns remembers, by a hash, whose resume tokens were taken for proof in this span of returnsTime and in the one before.
type returns struct {
	mu        sync.Mutex
	began     int64
	now, last map[uint64]uint8
}

func (r *returns) take(user uint64, at int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch past := at - r.began; {
	case past >= 2*returnsTime:
		r.began, r.now, r.last = at, nil, nil
	case past >= returnsTime:
		r.began, r.now, r.last = r.began+returnsTime, nil, r.now
	}
	n := r.now[user]
	if n+r.last[user] >= returnsPerUser || n == 0 && len(r.now) >= returnsMost {
		return false
	}
	if r.now == nil {
		r.now = make(map[uint64]uint8)
	}
	r.now[user] = n + 1
	return true
}

// forgetAddresses drops what nobody connects from any more, in one shard.
func (h *Hub) forgetAddresses(i int) {
	s := &h.addrs.shard[i%shards]
	now := h.nanos()
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, e := range s.m {
		if e.conns == 0 && now-e.lastConnected > int64(connectBurst*time.Second) {
			delete(s.m, k)
		}
	}
}

// users counts connections by user, and links those of each.
type users struct {
	seed  maphash.Seed
	shard [shards]userShard
}

type userShard struct {
	mu sync.Mutex
	m  map[id.UserID]*user
}

type user struct {
	rate  conn.Bucket // sends
	first uint32      // slot + 1 of the first connection
	conns int32
}

func (us *users) of(u id.UserID) *userShard {
	return &us.shard[maphash.String(us.seed, string(u))%shards]
}

func (us *users) lock(u id.UserID) (m *map[id.UserID]*user, unlock func()) {
	s := us.of(u)
	s.mu.Lock()
	return &s.m, s.mu.Unlock
}

// Login implements conn.Host.
func (h *Hub) Login(c *conn.Conn) (*conn.Bucket, *code.Error) {
	name, slot := c.Origin().User, slotOf(c.Incarnation())
	mp, unlock := h.users.lock(name)
	if *mp == nil {
		*mp = make(map[id.UserID]*user)
	}
	u := (*mp)[name]
	if u == nil {
		u = new(user)
		(*mp)[name] = u
	}
	if int(u.conns) >= h.limits.Load().PerUser && !h.replaces(u, c) {
		unlock()
		return nil, code.Newf(code.TooManyConnections, "too many connections of this user")
	}
	u.conns++
	h.table.chunk(slot).next[slot%chunkSlots] = u.first
	u.first = slot + 1
	unlock()
	if !c.Known() {
		h.strangers.Add(-1)
		h.known(c.RemoteAddr().Addr(), false)
	}
	return &u.rate, nil
}

// replaces reports whether c takes the place of another connection of its device. u's shard is locked.
func (h *Hub) replaces(u *user, c *conn.Conn) bool {
	for slot := u.first; slot != 0; slot = h.table.chunk(slot - 1).next[(slot-1)%chunkSlots] {
		k := h.table.chunk(slot - 1)
		if o := k.conns[(slot-1)%chunkSlots].Load(); o != nil && o.Origin().Device == c.Origin().Device {
			return true
		}
	}
	return false
}

// logout undoes Login.
func (h *Hub) logout(c *conn.Conn) {
	name, slot := c.Origin().User, slotOf(c.Incarnation())
	mp, unlock := h.users.lock(name)
	defer unlock()
	seats := &h.table.chunk(slot).seats[slot%chunkSlots]
	defer gone(*seats)
	*seats = nil
	u := (*mp)[name]
	if u == nil {
		return
	}
	for p := &u.first; *p != 0; {
		s := *p - 1
		next := &h.table.chunk(s).next[s%chunkSlots]
		if s == slot {
			*p = *next
			*next = 0
			u.conns--
			break
		}
		p = next
	}
	if u.conns == 0 {
		delete(*mp, name)
	}
}

// CloseUserUntil closes the connections of a user, of one device only unless device is
// empty, that were opened in the second of until or before, and returns how many.
func (h *Hub) CloseUserUntil(name id.UserID, device id.DeviceID, until time.Time, reason *code.Error) (n int) {
	second := uint64(max(until.Unix(), 0))
	var cs []*conn.Conn
	mp, unlock := h.users.lock(name)
	if u := (*mp)[name]; u != nil {
		for slot := u.first; slot != 0; slot = h.table.chunk(slot - 1).next[(slot-1)%chunkSlots] {
			k := h.table.chunk(slot - 1)
			c := k.conns[(slot-1)%chunkSlots].Load()
			if c != nil && (device == "" || c.Origin().Device == device) && secondOf(c.Incarnation()) <= second {
				cs = append(cs, c)
			}
		}
	}
	unlock()
	for _, c := range cs {
		if c.Close(reason) {
			n++
		}
	}
	return n
}
