package msgstore

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

// Group is what a group is, beside its members.
//
// Row: version, Join u8, Created, then CreatedBy, Key, Name, Avatar and Ext, each
// preceded by its length.
type Group struct {
	Join      uint8 // who may join by themselves: 0 nobody, 1 anyone
	Created   int64 // Unix ms
	CreatedBy id.UserID
	Key       string // an integrator's name, from which the id follows; empty: the id is random
	Name      string
	Avatar    string
	Ext       []byte
}

// Append appends the row to dst.
func (g *Group) Append(dst []byte) []byte {
	dst = append(dst, rowVersion, g.Join)
	dst = binary.AppendUvarint(dst, uint64(g.Created))
	for _, s := range []string{string(g.CreatedBy), g.Key, g.Name, g.Avatar, string(g.Ext)} {
		dst = binary.AppendUvarint(dst, uint64(len(s)))
		dst = append(dst, s...)
	}
	return dst
}

// ParseGroup reads a group row and keeps nothing of b.
func ParseGroup(b []byte) (Group, error) {
	var g Group
	r := reader{b: b}
	r.version()
	g.Join = r.byte()
	g.Created = r.time()
	g.CreatedBy = id.UserID(r.text())
	g.Key, g.Name, g.Avatar = r.text(), r.text(), r.text()
	if ext := r.lengthed(); len(ext) > 0 {
		g.Ext = append([]byte(nil), ext...)
	}
	if err := r.end(); err != nil {
		return Group{}, fmt.Errorf("group row: %w", err)
	}
	return g, nil
}

// AppendMemberCount appends the row that says how many members a group has to dst. It
// lies beside the group's row because it changes with every member.
//
// Row: version, number of members who are in.
func AppendMemberCount(dst []byte, n uint64) []byte {
	return binary.AppendUvarint(append(dst, rowVersion), n)
}

// ParseMemberCount reads the row of a group's number of members.
func ParseMemberCount(b []byte) (uint64, error) {
	r := reader{b: b}
	r.version()
	n := r.uvarint()
	if err := r.end(); err != nil {
		return 0, fmt.Errorf("row of a group's number of members: %w", err)
	}
	return n, nil
}

// AppendMemberList appends the row of all users that a membership message is about to
// dst; the message itself holds their number and some of them.
//
// Row: version, number of users, then for each the length u8 and the bytes.
func AppendMemberList(dst []byte, users []id.UserID) []byte {
	dst = binary.AppendUvarint(append(dst, rowVersion), uint64(len(users)))
	for _, u := range users {
		dst = append(dst, byte(len(u)))
		dst = append(dst, u...)
	}
	return dst
}

// ParseMemberList reads the row of all users that a membership message is about.
func ParseMemberList(b []byte) ([]id.UserID, error) {
	var users []id.UserID
	r := reader{b: b}
	r.version()
	for n := r.uvarint(); r.err == nil && n > 0; n-- {
		u := id.UserID(r.bytes(int(r.byte())))
		if r.err == nil && !u.Valid() {
			r.fail(ErrCorrupt)
		}
		users = append(users, u)
	}
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("row of a list of members: %w", err)
	}
	return users, nil
}

// AppendNickname appends the row of a member's name in the group, which isn't empty, to dst.
//
// Row: version, the name preceded by its length.
func AppendNickname(dst []byte, name string) []byte {
	return append(binary.AppendUvarint(append(dst, rowVersion), uint64(len(name))), name...)
}

// ParseNickname reads the row of a member's name in the group.
func ParseNickname(b []byte) (string, error) {
	r := reader{b: b}
	r.version()
	name := r.text()
	if err := r.end(); err != nil {
		return "", fmt.Errorf("nickname row: %w", err)
	}
	return name, nil
}

// Groups reads and writes what is stored of groups beside members and messages. It keeps
// nothing in memory and is safe for concurrent use. A transaction that writes any of it
// writes the conversation's head too.
type Groups struct {
	store kv.Store
	keys  Keys
}

// NewGroups returns the groups that lie in store under keys.
func NewGroups(store kv.Store, keys Keys) *Groups { return &Groups{store: store, keys: keys} }

// GroupOf is what one user sees of a group, as of one moment.
type GroupOf struct {
	Group
	Exists   bool   // there is a group row
	Members  uint64 // who are in
	Member   Member // the user's; zero: never was one
	Nickname string // the user's
}

// rowsOfGroup is how many rows of a GroupOf are read.
const rowsOfGroup = 4

// Get returns the group c as user sees it.
func (g *Groups) Get(ctx context.Context, c id.ConversationID, user id.UserID) (GroupOf, error) {
	all, err := g.OfUser(ctx, user, []id.ConversationID{c})
	if err != nil {
		return GroupOf{}, err
	}
	return all[0], nil
}

// OfUser returns groups as user sees them, in the order of cs.
func (g *Groups) OfUser(ctx context.Context, user id.UserID, cs []id.ConversationID) ([]GroupOf, error) {
	raws, err := multiGet(ctx, g.store, rowsOfGroup*len(cs), func(dst []byte, i int) []byte {
		c := cs[i/rowsOfGroup]
		switch i % rowsOfGroup {
		case 0:
			return g.keys.Group(dst, c)
		case 1:
			return g.keys.MemberCount(dst, c)
		case 2:
			return g.keys.Member(dst, c, user)
		}
		return g.keys.Nickname(dst, c, user)
	})
	if err != nil {
		return nil, fmt.Errorf("read %d groups: %w", len(cs), err)
	}
	all := make([]GroupOf, len(cs))
	for i := range all {
		if all[i], err = parseGroupOf(raws[rowsOfGroup*i : rowsOfGroup*(i+1)]); err != nil {
			return nil, fmt.Errorf("read group %s: %w", cs[i], err)
		}
	}
	return all, nil
}

func parseGroupOf(raws [][]byte) (o GroupOf, err error) {
	if raws[0] != nil {
		o.Exists = true
		if o.Group, err = ParseGroup(raws[0]); err != nil {
			return o, err
		}
	}
	if raws[1] != nil {
		if o.Members, err = ParseMemberCount(raws[1]); err != nil {
			return o, err
		}
	}
	if raws[2] != nil {
		if o.Member, err = ParseMember(raws[2]); err != nil {
			return o, err
		}
	}
	if raws[3] != nil {
		o.Nickname, err = ParseNickname(raws[3])
	}
	return o, err
}

// MembersOf returns the memberships of users in c, in their order; zero: never was one.
func (g *Groups) MembersOf(ctx context.Context, c id.ConversationID, users []id.UserID) ([]Member, error) {
	raws, err := multiGet(ctx, g.store, len(users), func(dst []byte, i int) []byte { return g.keys.Member(dst, c, users[i]) })
	rows := make([]Member, len(users))
	for i := range raws {
		if raws[i] != nil && err == nil {
			rows[i], err = ParseMember(raws[i])
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read members of %s: %w", c, err)
	}
	return rows, nil
}

// Nicknames returns the names of users in c, in their order; empty: none.
func (g *Groups) Nicknames(ctx context.Context, c id.ConversationID, users []id.UserID) ([]string, error) {
	raws, err := multiGet(ctx, g.store, len(users), func(dst []byte, i int) []byte { return g.keys.Nickname(dst, c, users[i]) })
	names := make([]string, len(users))
	for i := range raws {
		if raws[i] != nil && err == nil {
			names[i], err = ParseNickname(raws[i])
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read nicknames in %s: %w", c, err)
	}
	return names, nil
}

// List returns the users that the membership message seq is about, nil if there is no
// full list: the message names them all.
func (g *Groups) List(ctx context.Context, c id.ConversationID, seq uint64) ([]id.UserID, error) {
	raw, err := g.store.Get(ctx, g.keys.MemberList(nil, c, seq))
	if err != nil || raw == nil {
		return nil, err
	}
	return ParseMemberList(raw)
}

// Put adds to tx the writing of the group's own row.
func (g *Groups) Put(tx *kv.Tx, c id.ConversationID, row *Group) {
	var kb [MaxKeyLen]byte
	tx.SetFunc(g.keys.Group(kb[:0], c), row.Append)
}

// PutCount adds to tx the writing of how many members there are.
func (g *Groups) PutCount(tx *kv.Tx, c id.ConversationID, n uint64) {
	var kb [MaxKeyLen]byte
	tx.SetFunc(g.keys.MemberCount(kb[:0], c), func(dst []byte) []byte { return AppendMemberCount(dst, n) })
}

// PutList adds to tx the full list of the membership message seq.
func (g *Groups) PutList(tx *kv.Tx, c id.ConversationID, seq uint64, users []id.UserID) {
	var kb [MaxKeyLen]byte
	tx.SetFunc(g.keys.MemberList(kb[:0], c, seq), func(dst []byte) []byte { return AppendMemberList(dst, users) })
}

// PutNickname adds to tx the user's name in the group; empty: none.
func (g *Groups) PutNickname(tx *kv.Tx, c id.ConversationID, user id.UserID, name string) {
	var kb [MaxKeyLen]byte
	key := g.keys.Nickname(kb[:0], c, user)
	if name == "" {
		tx.Delete(key)
		return
	}
	tx.SetFunc(key, func(dst []byte) []byte { return AppendNickname(dst, name) })
}

// Group is the key of what a group is.
func (k Keys) Group(dst []byte, c id.ConversationID) []byte { return k.conversation(dst, c, rowGroup) }

// MemberCount is the key of a group's number of members.
func (k Keys) MemberCount(dst []byte, c id.ConversationID) []byte {
	return k.conversation(dst, c, rowMemberCount)
}

// MemberList is the key of the full list of a membership message.
func (k Keys) MemberList(dst []byte, c id.ConversationID, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(k.conversation(dst, c, rowMemberList), seq)
}

// Nickname is the key of the user's name in the group.
func (k Keys) Nickname(dst []byte, c id.ConversationID, user id.UserID) []byte {
	return append(k.conversation(dst, c, rowNickname), user...)
}

// Room is what a room is: who is in it is nowhere stored.
//
// Row: version, Created, Slow, then CreatedBy, Name and Title, each preceded by its length, the number of
// moderators and each preceded by its length, the number of curbs and for each the user preceded by its
// length, a byte that is 1 for a ban, and Until.
type Room struct {
	Created    int64  // Unix ms
	Slow       uint64 // seconds between two messages of one user; 0: none
	CreatedBy  id.UserID
	Name       string // from which the id follows
	Title      string
	Moderators []id.UserID
	Curbs      []Curb
}

// Curb is what a user may not do in a room.
type Curb struct {
	User   id.UserID
	Banned bool  // may not enter; else may not write
	Until  int64 // Unix ms; 0: until it is taken back
}

// Append appends the row to dst.
func (m *Room) Append(dst []byte) []byte {
	text := func(s string) { dst = append(binary.AppendUvarint(dst, uint64(len(s))), s...) }
	dst = binary.AppendUvarint(append(dst, rowVersion), uint64(m.Created))
	dst = binary.AppendUvarint(dst, m.Slow)
	text(string(m.CreatedBy))
	text(m.Name)
	text(m.Title)
	dst = binary.AppendUvarint(dst, uint64(len(m.Moderators)))
	for _, u := range m.Moderators {
		text(string(u))
	}
	dst = binary.AppendUvarint(dst, uint64(len(m.Curbs)))
	for _, c := range m.Curbs {
		text(string(c.User))
		ban := byte(0)
		if c.Banned {
			ban = 1
		}
		dst = binary.AppendUvarint(append(dst, ban), uint64(c.Until))
	}
	return dst
}

// ParseRoom reads a room's row and keeps nothing of b.
func ParseRoom(b []byte) (Room, error) {
	var m Room
	r := reader{b: b}
	r.version()
	m.Created = r.time()
	m.Slow = r.uvarint()
	m.CreatedBy, m.Name, m.Title = id.UserID(r.text()), r.text(), r.text()
	for n := r.uvarint(); r.err == nil && n > 0; n-- {
		m.Moderators = append(m.Moderators, id.UserID(r.text()))
	}
	for n := r.uvarint(); r.err == nil && n > 0; n-- {
		c := Curb{User: id.UserID(r.text())}
		ban := r.byte()
		if ban > 1 {
			r.fail(ErrCorrupt)
		}
		c.Banned, c.Until = ban == 1, r.time()
		m.Curbs = append(m.Curbs, c)
	}
	if err := r.end(); err != nil {
		return Room{}, fmt.Errorf("room row: %w", err)
	}
	return m, nil
}

// Room is the key of what a room is.
func (k Keys) Room(dst []byte, c id.ConversationID) []byte { return k.conversation(dst, c, rowRoom) }

// Rooms reads and writes what rooms are. It keeps nothing in memory and is safe for concurrent use. A
// transaction that writes a room's row writes the conversation's head too.
type Rooms struct {
	store kv.Store
	keys  Keys
}

// NewRooms returns the rooms that lie in store under keys.
func NewRooms(store kv.Store, keys Keys) *Rooms { return &Rooms{store: store, keys: keys} }

// Get returns the room c and its head as of one moment; false: there is no such room.
func (r *Rooms) Get(ctx context.Context, c id.ConversationID) (room Room, h Head, ok bool, err error) {
	raws, err := r.store.MultiGet(ctx, [][]byte{r.keys.Room(nil, c), r.keys.Head(nil, c)})
	if err == nil && raws[0] != nil && raws[1] != nil {
		ok = true
		if room, err = ParseRoom(raws[0]); err == nil {
			h, err = ParseHead(raws[1])
		}
	}
	if err != nil {
		return Room{}, Head{}, false, fmt.Errorf("read room %s: %w", c, err)
	}
	return room, h, ok, nil
}

// Put adds to tx the writing of a room's row, and, unless keep is nil, of how long its messages are kept.
func (r *Rooms) Put(tx *kv.Tx, c id.ConversationID, row *Room, keep *Keep) {
	var kb [MaxKeyLen]byte
	tx.SetFunc(r.keys.Room(kb[:0], c), row.Append)
	if keep != nil {
		tx.SetFunc(r.keys.Keep(kb[:0], c), keep.Append)
	}
}
