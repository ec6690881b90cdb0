package msgstore

import (
	"context"
	"encoding/binary"
	"errors"
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

// areaName holds the index of names, behind the slots' users.
const areaName = 0x30

// maxTerm is how much of a term is in its key, in bytes.
const maxTerm = 24

// rowRepeat is behind `20 user 00`, as all of the user's.
const rowRepeat byte = 0x40

// SameTerm reports whether two terms have the same rows.
func SameTerm(a, b string) bool { return CutTerm(a) == CutTerm(b) }

// CutTerm is as much of a term as its key has, in whole characters.
func CutTerm(term string) string {
	if len(term) <= maxTerm {
		return term
	}
	n := maxTerm
	for n > 0 && !utf8.RuneStart(term[n]) {
		n--
	}
	return term[:n]
}

// Named appends the beginning of the keys of names that begin with term, of which only the first
// maxTerm bytes count. It lies in the slot of the term's first character.
func (k Keys) Named(dst []byte, term string) []byte {
	_, n := utf8.DecodeRuneInString(term)
	dst = append(k.prefix(dst, id.UserID(term[:n]).Slot()), areaName)
	return append(dst, CutTerm(term)...)
}

// Name appends the key of the row that says that user may be found by term. A term is not
// empty and holds no zero byte.
func (k Keys) Name(dst []byte, term string, user id.UserID) []byte {
	return append(append(k.Named(dst, term), 0), user...)
}

// Found is one row of the index of names.
type Found struct {
	Term string // the first maxTerm bytes of it
	User id.UserID
}

// Named returns up to limit rows of names that begin with term, in the order of their keys,
// from the first one after `after` (zero: from the beginning). A row is a hint: what the user
// is called by now is said by the profile.
func (x *Relations) Named(ctx context.Context, term string, after Found, limit int) ([]Found, error) {
	start := x.keys.Named(nil, term)
	span := kv.Span{Start: start, End: prefixEnd(append([]byte(nil), start...)), Limit: limit}
	head := len(start) - len(CutTerm(term))
	if after.Term != "" {
		span.Start = append(x.keys.Name(nil, after.Term, after.User), 0)
	}
	var found []Found
	err := x.store.Scan(ctx, span, func(key, value []byte) (bool, error) {
		f, err := parseName(key[head:], value)
		if err == nil {
			found = append(found, f)
		}
		return true, err
	})
	if err != nil {
		return nil, fmt.Errorf("look for names: %w", err)
	}
	return found, nil
}

// parseName reads a row of the index of names; key is what follows the area.
//
// Row: version.
func parseName(key, value []byte) (Found, error) {
	i := 0
	for i < len(key) && key[i] != 0 {
		i++
	}
	r := reader{b: value}
	r.version()
	err := r.end()
	if err == nil && (i == 0 || i == len(key) || !utf8.Valid(key[:i]) || !id.UserID(key[i+1:]).Valid()) {
		err = ErrCorrupt
	}
	if err != nil {
		return Found{}, fmt.Errorf("row of a name: %w", err)
	}
	return Found{Term: string(key[:i]), User: id.UserID(key[i+1:])}, nil
}

// PutNames makes user findable by the terms put, and no longer by those of drop. Each is a
// transaction of its own, since each lies in a slot of its own; after an error some may not be done.
func (x *Relations) PutNames(ctx context.Context, user id.UserID, put, drop []string) error {
	txs := make([]*kv.Tx, 0, len(put)+len(drop))
	for _, term := range put {
		tx := new(kv.Tx)
		tx.Set(x.keys.Name(nil, term, user), []byte{rowVersion})
		txs = append(txs, tx)
	}
	for _, term := range drop {
		tx := new(kv.Tx)
		tx.Delete(x.keys.Name(nil, term, user))
		txs = append(txs, tx)
	}
	for turn := 0; len(txs) > 0; turn++ {
		x.store.Commit(ctx, txs...)
		left := txs[:0]
		for _, tx := range txs {
			switch { // even a write that requires nothing may meet another one of its key
			case tx.Err == nil:
			case turn < nameTurns && (errors.Is(tx.Err, kv.ErrConflict) || errors.Is(tx.Err, kv.ErrUndetermined)):
				left = append(left, tx)
			default:
				return fmt.Errorf("write the index of names: %w", tx.Err)
			}
		}
		txs = left
	}
	return nil
}

// nameTurns is how often a row of the index of names is written again that somebody else wrote at the same time.
const nameTurns = 16

// HasNames reports whether user may be found by all of terms.
func (x *Relations) HasNames(ctx context.Context, user id.UserID, terms []string) (bool, error) {
	raws, err := multiGet(ctx, x.store, len(terms), func(dst []byte, i int) []byte { return x.keys.Name(dst, terms[i], user) })
	if err != nil {
		return false, fmt.Errorf("read the index of names: %w", err)
	}
	for _, raw := range raws {
		if raw == nil {
			return false, nil
		}
	}
	return true, nil
}

// Repeats appends the beginning of the keys of what the user asked for under keys of their own.
func (k Keys) Repeats(dst []byte, u id.UserID) []byte { return append(k.User(dst, u), rowRepeat) }

// Repeat appends the key of one of them: the day (since 1970, in UTC) on which it was asked for
// first, and a hash of the key.
func (k Keys) Repeat(dst []byte, u id.UserID, day uint32, hash [16]byte) []byte {
	dst = binary.BigEndian.AppendUint32(k.Repeats(dst, u), day)
	return append(dst, hash[:]...)
}

// AppendRepeat appends the row of a message that was sent under a key to dst.
//
// Row: version, the client message id.
func AppendRepeat(dst []byte, msg id.ClientMsgID) []byte {
	return append(append(dst, rowVersion), msg[:]...)
}

// ParseRepeat reads it.
func ParseRepeat(b []byte) (msg id.ClientMsgID, err error) {
	r := reader{b: b}
	r.version()
	copy(msg[:], r.bytes(len(msg)))
	if err := r.end(); err != nil {
		return msg, fmt.Errorf("row of a repeat: %w", err)
	}
	return msg, nil
}

// repeatsSwept is how many rows of past days are deleted with each that is written.
const repeatsSwept = 64

const dayMS = 24 * 60 * 60 * 1000

// Repeat returns the id that was kept for the hash of a user's key, today or yesterday, and
// else keeps fresh and returns it. nowMS is in Unix ms. Rows of days before are deleted on the way.
// Around midnight one process has today what is yesterday, or tomorrow, for another: each looks at all three
// days and writes to all of them, if only that there is nothing, so that of two at once one meets a conflict.
func (x *Relations) Repeat(ctx context.Context, u id.UserID, hash [16]byte, fresh id.ClientMsgID, nowMS int64) (id.ClientMsgID, error) {
	day := uint32(nowMS / dayMS)
	yesterday, today, tomorrow := x.keys.Repeat(nil, u, day-1, hash), x.keys.Repeat(nil, u, day, hash), x.keys.Repeat(nil, u, day+1, hash)
	days := [][]byte{yesterday, today, tomorrow}
	raws, err := x.store.MultiGet(ctx, days)
	if err != nil {
		return fresh, fmt.Errorf("read what a key stands for: %w", err)
	}
	for _, raw := range raws {
		if raw != nil {
			return ParseRepeat(raw)
		}
	}
	tx := new(kv.Tx)
	old := kv.Span{Start: x.keys.Repeats(nil, u), End: x.keys.Repeat(nil, u, day-1, [16]byte{}), Limit: repeatsSwept}
	if err := x.store.Scan(ctx, old, func(key, _ []byte) (bool, error) {
		tx.Delete(append([]byte(nil), key...))
		return true, nil
	}); err != nil {
		return fresh, fmt.Errorf("look for old keys: %w", err)
	}
	for _, key := range days {
		tx.Require(key, nil)
		tx.Delete(key)
	}
	tx.Set(today, AppendRepeat(nil, fresh))
	x.store.Commit(ctx, tx)
	if tx.Err != nil {
		return fresh, fmt.Errorf("keep what a key stands for: %w", tx.Err)
	}
	return fresh, nil
}
