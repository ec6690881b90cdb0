// Package session is the directory of who is connected where: for each user the
// live connections, one a device. It lives in memory only; connecting and leaving
// write nothing to disk. In a cluster each node has the part of it that the users of its slots
// are in (Part).
package session

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/gochat-im/gochat/protocol/id"
)

// Limits of Config.
const (
	DefaultDevices = 16
	MaxDevices     = 64
)

// Config of a Directory; zero fields take their defaults.
type Config struct {
	// DevicesPerUser is how many devices of one user may be connected at once, at most
	// MaxDevices; 0: DefaultDevices. One more ousts the device that registered longest ago.
	DevicesPerUser int

	// PerKind is how many of them may be of one kind (phones, desktops, …; those that name none
	// are a kind too); 0: as many as there may be in all. One more ousts the one of its kind that
	// registered longest ago.
	PerKind int
}

// ErrConfig is wrapped by the errors of Validate.
var ErrConfig = errors.New("session: bad configuration")

// Validate reports a field out of bounds.
func (c Config) Validate() error {
	if c.DevicesPerUser < 0 || c.DevicesPerUser > MaxDevices {
		return fmt.Errorf("%w: DevicesPerUser is %d, want 0 to %d", ErrConfig, c.DevicesPerUser, MaxDevices)
	}
	if c.PerKind < 0 {
		return fmt.Errorf("%w: PerKind is %d, want 0 or more", ErrConfig, c.PerKind)
	}
	return nil
}

const shardCount = 64

// Directory maps users to their connections. It is safe for concurrent use; every
// call holds one shard's lock for the time of a map look-up and never while calling out.
type Directory struct {
	limit  limit
	shards [shardCount]shard // by the user's slot
}

// New returns an empty Directory.
func New(cfg Config) (*Directory, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	d := &Directory{limit: limit{all: cfg.DevicesPerUser, kind: cfg.PerKind}}
	if d.limit.all == 0 {
		d.limit.all = DefaultDevices
	}
	if d.limit.kind == 0 {
		d.limit.kind = d.limit.all
	}
	return d, nil
}

func (d *Directory) shard(user id.UserID) *shard { return &d.shards[user.Slot()%shardCount] }

// Register enters connection conn (never 0, never used before) as the one of user's
// device. replaced is the connection that the same device had; ousted that of another device,
// the one that registered longest ago, if there are too many now, of this kind or in all: the
// newest wins. Each is 0 if there is none, and is no longer in the directory; its own Unregister
// will find nothing.
func (d *Directory) Register(user id.UserID, device id.DeviceID, kind uint8, conn uint64) (replaced, ousted uint64) {
	s := d.shard(user)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.register(user, device, kind, conn, d.limit)
}

// Unregister removes connection conn of user, and only that one: a later registration
// of the same device stays.
func (d *Directory) Unregister(user id.UserID, conn uint64) {
	s := d.shard(user)
	s.mu.Lock()
	s.unregister(user, conn)
	s.mu.Unlock()
}

// target is what Each copies out of a shard.
type target struct {
	conn   uint64
	device id.DeviceID
}

// Each calls fn for each connection of user, the latest registered first, and allocates
// nothing. fn runs outside the directory's locks, so a connection may be gone by then.
func (d *Directory) Each(user id.UserID, fn func(conn uint64, device id.DeviceID)) {
	var few [4]target
	s := d.shard(user)
	s.mu.Lock()
	n := s.copy(user, few[:])
	s.mu.Unlock()
	if n > len(few) {
		d.eachOfMany(user, fn)
		return
	}
	for i := range n {
		fn(few[i].conn, few[i].device)
	}
}

// eachOfMany has a frame of its own for the array that most users don't need.
func (d *Directory) eachOfMany(user id.UserID, fn func(conn uint64, device id.DeviceID)) {
	var many [MaxDevices]target
	s := d.shard(user)
	s.mu.Lock()
	n := s.copy(user, many[:])
	s.mu.Unlock()
	for i := range n {
		fn(many[i].conn, many[i].device)
	}
}

// Gather appends the connections of each of users, the latest registered first, to conns and where they end in
// it to ends, and returns both. It waits for nobody and allocates nothing but room.
func (d *Directory) Gather(_ context.Context, users []id.UserID, conns []uint64, ends []int) ([]uint64, []int) {
	for _, u := range users {
		conns = d.shard(u).gather(u, conns)
		ends = append(ends, len(conns))
	}
	return conns, ends
}

// InSlot appends the sessions of the users in a slot, in no order.
func (d *Directory) InSlot(slot id.Slot, dst []Session) []Session {
	s := &d.shards[slot%shardCount]
	s.mu.Lock()
	defer s.mu.Unlock()
	for u, i := range s.users {
		if u.Slot() != slot {
			continue
		}
		for ; i != 0; i = s.at(i).next {
			e := s.at(i)
			dst = append(dst, Session{u, e.device, e.kind, e.conn})
		}
	}
	return dst
}

// Find returns the connection of user's device and the device's kind, 0 if it has none.
func (d *Directory) Find(user id.UserID, device id.DeviceID) (conn uint64, kind uint8) {
	s := d.shard(user)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := s.users[user]; i != 0; i = s.at(i).next {
		if e := s.at(i); e.device == device {
			return e.conn, e.kind
		}
	}
	return 0, 0
}

// Len returns the number of sessions.
func (d *Directory) Len() int {
	n := 0
	for i := range d.shards {
		s := &d.shards[i]
		s.mu.Lock()
		n += s.count
		s.mu.Unlock()
	}
	return n
}

// An entry is one session, 32 bytes. The user's name stands in the map alone, and both
// strings share the memory that the caller passed in, which its connection holds anyway.
type entry struct {
	device id.DeviceID
	conn   uint64
	next   uint32 // of the same user, registered earlier; or the next free entry
	kind   uint8
}

// Entries lie in chunks, so that growing copies nothing and an entry costs no allocation of its own.
const (
	chunkBits = 6
	chunkLen  = 1 << chunkBits
)

// A shard keeps entries by number from 1, 0 meaning none: the map's value is then 4
// bytes, which matters because half of a map's slots are empty.
type shard struct {
	mu     sync.Mutex
	users  map[id.UserID]uint32 // the user's latest entry
	chunks []*[chunkLen]entry
	used   uint32 // entries handed out of chunks so far
	free   uint32
	count  int
	_      [40]byte // a cache line of its own
}

func (s *shard) at(i uint32) *entry { return &s.chunks[(i-1)>>chunkBits][(i-1)&(chunkLen-1)] }

func (s *shard) alloc() uint32 {
	if i := s.free; i != 0 {
		s.free = s.at(i).next
		return i
	}
	if int(s.used) == len(s.chunks)*chunkLen {
		s.chunks = append(s.chunks, new([chunkLen]entry))
	}
	s.used++
	return s.used
}

func (s *shard) release(i uint32) {
	*s.at(i) = entry{next: s.free}
	s.free = i
	s.count--
	if s.count == 0 && len(s.chunks) > 4 {
		// After a storm that has gone, give the memory back; maps don't shrink by themselves.
		s.users, s.chunks, s.used, s.free = nil, nil, 0, 0
	}
}

// limit is how many sessions a user may have, at least 1 each.
type limit struct{ all, kind int }

func (s *shard) register(user id.UserID, device id.DeviceID, kind uint8, conn uint64, most limit) (replaced, ousted uint64) {
	var all, same int
	var oldest, oldestSame uint64
	for i := s.users[user]; i != 0; i = s.at(i).next {
		switch e := s.at(i); {
		case e.device == device:
			replaced = e.conn
		case e.kind == kind:
			all, same, oldest, oldestSame = all+1, same+1, e.conn, e.conn
		default:
			all, oldest = all+1, e.conn
		}
	}
	switch {
	case same >= most.kind:
		ousted = oldestSame
	case all >= most.all:
		ousted = oldest
	}
	for _, c := range [...]uint64{replaced, ousted} {
		if c != 0 {
			s.unregister(user, c)
		}
	}
	if s.users == nil {
		s.users = make(map[id.UserID]uint32)
	}
	i := s.alloc()
	*s.at(i) = entry{device: device, conn: conn, next: s.users[user], kind: kind}
	s.users[user] = i
	s.count++
	return replaced, ousted
}

func (s *shard) unregister(user id.UserID, conn uint64) {
	head := s.users[user]
	prev := uint32(0)
	for i := head; i != 0; prev, i = i, s.at(i).next {
		e := s.at(i)
		if e.conn != conn {
			continue
		}
		switch {
		case prev != 0:
			s.at(prev).next = e.next
		case e.next != 0:
			s.users[user] = e.next
		default:
			delete(s.users, user)
		}
		s.release(i)
		return
	}
}

// gather appends the connections of user.
func (s *shard) gather(user id.UserID, dst []uint64) []uint64 {
	s.mu.Lock()
	for i := s.users[user]; i != 0; {
		e := s.at(i)
		dst, i = append(dst, e.conn), e.next
	}
	s.mu.Unlock()
	return dst
}

// copy puts user's sessions into dst and returns how many there are, which may be more than fit.
func (s *shard) copy(user id.UserID, dst []target) int {
	n := 0
	for i := s.users[user]; i != 0; n++ {
		e := s.at(i)
		if n < len(dst) {
			dst[n] = target{e.conn, e.device}
		}
		i = e.next
	}
	return n
}
