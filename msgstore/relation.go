package msgstore

import (
	"context"
	"encoding/binary"
	"fmt"
	"unicode/utf8"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

// Rows of what a user tells of themselves and of others; behind `20 user 00`, as all of the user's.
const (
	rowProfile byte = 0x20
	rowBlock   byte = 0x30
)

// Profile appends the key of the user's profile.
func (k Keys) Profile(dst []byte, u id.UserID) []byte {
	return append(k.User(dst, u), rowProfile)
}

// Blocks appends the prefix of the rows of those whom the user has blocked.
func (k Keys) Blocks(dst []byte, u id.UserID) []byte {
	return append(k.User(dst, u), rowBlock)
}

// Block appends the key of the row that says that u has blocked other. It may be longer than MaxKeyLen.
func (k Keys) Block(dst []byte, u, other id.UserID) []byte {
	return append(k.Blocks(dst, u), other...)
}

// Profile is what a user shows of themselves.
//
// Row: version, Version, Changed, then Name, Avatar and Ext, each as length and bytes.
type Profile struct {
	Version uint64 // grows by one with each change; never 0 in a row
	Changed int64  // Unix ms
	Name    string
	Avatar  string // a URL
	Ext     []byte // an integrator's own
}

// Append appends the row to dst.
func (p *Profile) Append(dst []byte) []byte {
	dst = append(dst, rowVersion)
	dst = binary.AppendUvarint(dst, p.Version)
	dst = binary.AppendUvarint(dst, uint64(p.Changed))
	dst = append(binary.AppendUvarint(dst, uint64(len(p.Name))), p.Name...)
	dst = append(binary.AppendUvarint(dst, uint64(len(p.Avatar))), p.Avatar...)
	return append(binary.AppendUvarint(dst, uint64(len(p.Ext))), p.Ext...)
}

// ParseProfile reads a profile's row; it keeps nothing of b.
func ParseProfile(b []byte) (Profile, error) {
	var p Profile
	r := reader{b: b}
	r.version()
	p.Version = r.uvarint()
	p.Changed = r.time()
	p.Name, p.Avatar = r.text(), r.text()
	if ext := r.lengthed(); len(ext) > 0 {
		p.Ext = append([]byte(nil), ext...)
	}
	err := r.end()
	if err == nil && p.Version == 0 {
		err = ErrCorrupt
	}
	if err != nil {
		return Profile{}, fmt.Errorf("profile row: %w", err)
	}
	return p, nil
}

// lengthed reads bytes behind their length.
func (r *reader) lengthed() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.fail(ErrCorrupt)
		return nil
	}
	return r.bytes(int(n))
}

func (r *reader) text() string {
	b := r.lengthed()
	if !utf8.Valid(b) {
		r.fail(ErrCorrupt)
		return ""
	}
	return string(b)
}

// AppendBlock appends the row of a block to dst; since is in Unix ms.
//
// Row: version, since.
func AppendBlock(dst []byte, since int64) []byte {
	return binary.AppendUvarint(append(dst, rowVersion), uint64(since))
}

// ParseBlock reads the row of a block.
func ParseBlock(b []byte) (since int64, err error) {
	r := reader{b: b}
	r.version()
	since = r.time()
	if err := r.end(); err != nil {
		return 0, fmt.Errorf("block row: %w", err)
	}
	return since, nil
}

// Relations reads and writes profiles and blocks. It keeps nothing in memory and is safe
// for concurrent use. Whether somebody is blocked decides what may be appended to another
// slot's conversation, so that conversation's StateVersion is raised after a block row
// was written and before anybody is told so.
type Relations struct {
	store kv.Store
	keys  Keys
}

// NewRelations returns the relations that lie in store under keys.
func NewRelations(store kv.Store, keys Keys) *Relations { return &Relations{store: store, keys: keys} }

// Profile returns the user's profile and its row, which PutProfile requires; raw is nil
// if there is none.
func (x *Relations) Profile(ctx context.Context, u id.UserID) (p Profile, raw []byte, err error) {
	raw, err = x.store.Get(ctx, x.keys.Profile(nil, u))
	if err == nil && raw != nil {
		p, err = ParseProfile(raw)
	}
	if err != nil {
		return Profile{}, nil, fmt.Errorf("read a profile: %w", err)
	}
	return p, raw, nil
}

// Profiles returns the profiles of users, in their order; those without one are zero.
func (x *Relations) Profiles(ctx context.Context, users []id.UserID) ([]Profile, error) {
	raws, err := multiGet(ctx, x.store, len(users), func(dst []byte, i int) []byte { return x.keys.Profile(dst, users[i]) })
	ps := make([]Profile, len(raws))
	for i, raw := range raws {
		if raw == nil {
			continue
		}
		if ps[i], err = ParseProfile(raw); err != nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read profiles: %w", err)
	}
	return ps, nil
}

// PutProfile adds to tx the writing of the user's profile over the row raw that was read
// (nil: none); it conflicts if another one is there by then.
func (x *Relations) PutProfile(tx *kv.Tx, u id.UserID, raw []byte, p *Profile) {
	key := x.keys.Profile(nil, u)
	tx.Require(key, raw)
	tx.SetFunc(key, p.Append)
}

// Block returns the row that says that u has blocked other, which PutBlock and DeleteBlock
// require; nil: u hasn't.
func (x *Relations) Block(ctx context.Context, u, other id.UserID) (raw []byte, err error) {
	if raw, err = x.store.Get(ctx, x.keys.Block(nil, u, other)); err != nil {
		return nil, fmt.Errorf("read a block: %w", err)
	}
	return raw, nil
}

// PutBlock adds to tx that u has blocked other since the Unix ms since, over the row raw
// that was read (nil: none).
func (x *Relations) PutBlock(tx *kv.Tx, u, other id.UserID, raw []byte, since int64) {
	key := x.keys.Block(nil, u, other)
	tx.Require(key, raw)
	tx.SetFunc(key, func(dst []byte) []byte { return AppendBlock(dst, since) })
}

// DeleteBlock adds to tx that u hasn't blocked other, over the row raw that was read. It
// writes even if there was none: a block whose outcome nobody knew must not come later.
func (x *Relations) DeleteBlock(tx *kv.Tx, u, other id.UserID, raw []byte) {
	key := x.keys.Block(nil, u, other)
	tx.Require(key, raw)
	tx.Delete(key)
}

// Pair is who may be blocked by whom.
type Pair struct{ By, Whom id.UserID }

// Blocked reports, for each pair, whether By has blocked Whom; all as of one moment.
func (x *Relations) Blocked(ctx context.Context, pairs ...Pair) ([]bool, error) {
	raws, err := multiGet(ctx, x.store, len(pairs), func(dst []byte, i int) []byte { return x.keys.Block(dst, pairs[i].By, pairs[i].Whom) })
	blocked := make([]bool, len(raws))
	for i, raw := range raws {
		if raw == nil {
			continue
		}
		if _, err = ParseBlock(raw); err != nil {
			break
		}
		blocked[i] = true
	}
	if err != nil {
		return nil, fmt.Errorf("read blocks: %w", err)
	}
	return blocked, nil
}

// BlockedBy returns up to limit (0: all) of those whom u has blocked, in the order of
// their ids' bytes, from the first one after `after` (empty: from the beginning).
func (x *Relations) BlockedBy(ctx context.Context, u, after id.UserID, limit int) ([]id.UserID, error) {
	span := kv.Span{Start: x.keys.Block(nil, u, after), End: prefixEnd(x.keys.Blocks(nil, u)), Limit: limit}
	if after != "" {
		span.Start = append(span.Start, 0)
	}
	prefix := len(span.End)
	var users []id.UserID
	err := x.store.Scan(ctx, span, func(key, value []byte) (bool, error) {
		users = append(users, id.UserID(key[prefix:]))
		_, err := ParseBlock(value)
		return true, err
	})
	if err != nil {
		return nil, fmt.Errorf("read a user's blocks: %w", err)
	}
	return users, nil
}
