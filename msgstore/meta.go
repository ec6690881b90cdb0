package msgstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

// What OpenMeta refuses a store for, wrapped with both values.
var (
	ErrLayout       = errors.New("msgstore: the store's keys have another layout")
	ErrSlots        = errors.New("msgstore: the store was made with other slots")
	ErrFeatureLevel = errors.New("msgstore: the store has rows of a later feature level")
)

// FeatureLevel is the highest level of stored formats that this code reads and writes.
// A store's level is raised only when every node can read it: RaiseLevel.
const FeatureLevel = 1

// firstLevel is the feature level of a new store.
const firstLevel = 1

// SlotHash names the hash that slots are made with.
const SlotHash = "xxh64"

// Names of the store's rows.
const (
	metaRowName  = "meta"
	clockRowName = "clock"
	clockRows    = "clock:" // and a worker number
)

// Meta is what a store says about itself.
//
// Row "meta": version, Epoch, SlotCount, hash's length u8 and name, FeatureLevel, Created.
type Meta struct {
	// Epoch is that of the store's contents: a restore sets one never used before, and
	// clients who hold another one's messages fetch everything again.
	Epoch        uint64
	SlotCount    uint32
	Hash         string // at most 255 bytes
	FeatureLevel uint32
	Created      int64 // Unix ms
}

// Append appends the row to dst.
func (m *Meta) Append(dst []byte) []byte {
	dst = append(dst, rowVersion)
	dst = binary.AppendUvarint(dst, m.Epoch)
	dst = binary.AppendUvarint(dst, uint64(m.SlotCount))
	dst = append(dst, byte(len(m.Hash)))
	dst = append(dst, m.Hash...)
	dst = binary.AppendUvarint(dst, uint64(m.FeatureLevel))
	return binary.AppendUvarint(dst, uint64(m.Created))
}

// ParseMeta reads the row.
func ParseMeta(b []byte) (Meta, error) {
	var m Meta
	r := reader{b: b}
	r.version()
	m.Epoch = r.uvarint()
	slots := r.uvarint()
	m.Hash = string(r.bytes(int(r.byte())))
	level := r.uvarint()
	m.Created = r.time()
	err := r.end()
	if err == nil && (slots > math.MaxUint32 || level > math.MaxUint32) {
		err = ErrCorrupt
	}
	if err != nil {
		return Meta{}, fmt.Errorf("store's meta row: %w", err)
	}
	m.SlotCount, m.FeatureLevel = uint32(slots), uint32(level)
	return m, nil
}

// OpenMeta reads what the store says about itself; an empty store is given a meta row
// first, created at now (Unix ms), which is its first epoch too. A store that this code
// must not touch is ErrLayout, ErrSlots, ErrFeatureLevel or ErrVersion; one with rows and
// without a meta row is ErrCorrupt. It comes before any other use of the store.
func OpenMeta(ctx context.Context, store kv.Store, keys Keys, now int64) (Meta, error) {
	key := keys.StoreRow(nil, metaRowName)
	for {
		raw, err := store.Get(ctx, key)
		if err != nil {
			return Meta{}, fmt.Errorf("open store: %w", err)
		}
		if raw != nil {
			m, err := ParseMeta(raw)
			if err == nil {
				err = m.check()
			}
			if err != nil {
				return Meta{}, fmt.Errorf("open store: %w", err)
			}
			return m, nil
		}
		if err := checkEmpty(ctx, store, keys); err != nil {
			// Another node may have made the store, and begun, since.
			if again, readErr := store.Get(ctx, key); readErr == nil && again != nil {
				continue
			}
			return Meta{}, fmt.Errorf("open store: %w", err)
		}
		m := Meta{Epoch: uint64(max(now, 1)), SlotCount: id.SlotCount, Hash: SlotHash, FeatureLevel: firstLevel, Created: now}
		var tx kv.Tx
		tx.Frees = true // one row, and without it nothing begins
		tx.Require(key, nil)
		tx.SetFunc(key, m.Append)
		store.Commit(ctx, &tx)
		switch {
		case tx.Err == nil:
			return m, nil
		case errors.Is(tx.Err, kv.ErrConflict), errors.Is(tx.Err, kv.ErrUndetermined):
			continue // another node was first, or this one was
		}
		return Meta{}, fmt.Errorf("create store: %w", tx.Err)
	}
}

// IsNew tells whether the store has no meta row yet: OpenMeta would make it. What is done to a store before it is
// made (cutting a shared one into regions) is done then, perhaps by several nodes at once.
func IsNew(ctx context.Context, store kv.Store, keys Keys) (bool, error) {
	raw, err := store.Get(ctx, keys.StoreRow(nil, metaRowName))
	if err != nil {
		return false, fmt.Errorf("look for the store's meta row: %w", err)
	}
	return raw == nil, nil
}

func (m *Meta) check() error {
	switch {
	case m.SlotCount != id.SlotCount || m.Hash != SlotHash:
		return fmt.Errorf("%d slots by %q, want %d by %q: %w", m.SlotCount, m.Hash, id.SlotCount, SlotHash, ErrSlots)
	case m.FeatureLevel == LevelCopying:
		return ErrCopying
	case m.FeatureLevel > FeatureLevel:
		return fmt.Errorf("level %d, known up to %d: %w", m.FeatureLevel, FeatureLevel, ErrFeatureLevel)
	case m.FeatureLevel == 0 || m.Epoch == 0:
		return fmt.Errorf("level or epoch of 0: %w", ErrCorrupt)
	}
	return nil
}

// checkEmpty returns an error if the keyspace holds anything.
func checkEmpty(ctx context.Context, store kv.Store, keys Keys) error {
	start := binary.BigEndian.AppendUint16(nil, keys.Keyspace)
	span := kv.Span{Start: start, End: prefixEnd(append([]byte(nil), start...)), Limit: 1}
	return store.Scan(ctx, span, func(key, _ []byte) (bool, error) {
		if len(key) > 2 && key[2] != Layout {
			return false, fmt.Errorf("layout %d, want %d: %w", key[2], Layout, ErrLayout)
		}
		return false, fmt.Errorf("it has rows but no meta row: %w", ErrCorrupt)
	})
}

// NewEpoch gives the store an epoch it never had, as a restore must: the larger of the
// old one + 1 and now (Unix ms).
func NewEpoch(ctx context.Context, store kv.Store, keys Keys, now int64) (Meta, error) {
	m, err := OpenMeta(ctx, store, keys, now)
	if err != nil {
		return Meta{}, err
	}
	var tx kv.Tx
	key := keys.StoreRow(nil, metaRowName)
	tx.Require(key, m.Append(nil))
	m.Epoch = max(m.Epoch+1, uint64(max(now, 0)))
	tx.SetFunc(key, m.Append)
	store.Commit(ctx, &tx)
	if tx.Err != nil {
		return Meta{}, fmt.Errorf("set epoch: %w", tx.Err)
	}
	return m, nil
}

// RaiseLevel raises the store's feature level to level, unless it is there already, and returns the one that it has then. It
// comes before the first row of a level that older code can't read, so that such code refuses the store from then on
// (ErrFeatureLevel): by OpenMeta, wherever it comes from. A level beyond FeatureLevel is refused the same way. There is no way back.
func RaiseLevel(ctx context.Context, store kv.Store, keys Keys, level uint32) (uint32, error) {
	return raiseLevel(ctx, store, keys, level, FeatureLevel)
}

// raiseLevel is RaiseLevel of code that reads up to known.
func raiseLevel(ctx context.Context, store kv.Store, keys Keys, level, known uint32) (uint32, error) {
	if level > known {
		return 0, fmt.Errorf("raise the store's feature level to %d, known up to %d: %w", level, known, ErrFeatureLevel)
	}
	key := keys.StoreRow(nil, metaRowName)
	for {
		raw, err := store.Get(ctx, key)
		if err != nil {
			return 0, fmt.Errorf("raise the store's feature level: %w", err)
		}
		m, err := ParseMeta(raw)
		switch {
		case err != nil:
			return 0, fmt.Errorf("raise the store's feature level: %w", err)
		case m.FeatureLevel > known: // another store, put in the place of the one that was opened
			return 0, fmt.Errorf("level %d, known up to %d: %w", m.FeatureLevel, known, ErrFeatureLevel)
		case m.FeatureLevel >= level:
			return m.FeatureLevel, nil
		}
		m.FeatureLevel = level
		tx := kv.Tx{Frees: true} // one row
		tx.Require(key, raw)
		tx.SetFunc(key, m.Append)
		store.Commit(ctx, &tx)
		switch {
		case tx.Err == nil:
			return level, nil
		case errors.Is(tx.Err, kv.ErrConflict) && ctx.Err() == nil: // somebody else was faster, or an epoch was set
			continue
		}
		return 0, fmt.Errorf("raise the store's feature level: %w", tx.Err)
	}
}

// Deleting is the key of the row that says that the user is being deleted; an empty user: the
// beginning of them all. It lies with the store's rows, so that a start finds what to go on with.
func (k Keys) Deleting(dst []byte, u id.UserID) []byte {
	return append(append(k.prefix(dst, id.SlotStore), storeDeleting), u...)
}

// AppendDeleting appends the row of a user who is being deleted since the Unix ms since to dst.
//
// Row: version, since.
func AppendDeleting(dst []byte, since int64) []byte {
	return binary.AppendUvarint(append(dst, rowVersion), uint64(since))
}

// ParseDeleting reads the row of a user who is being deleted.
func ParseDeleting(b []byte) (since int64, err error) {
	r := reader{b: b}
	r.version()
	since = r.time()
	if err := r.end(); err != nil {
		return 0, fmt.Errorf("row of a user who is being deleted: %w", err)
	}
	return since, nil
}

// Deletion is a user who is being deleted.
type Deletion struct {
	User  id.UserID
	Since int64 // Unix ms
}

// Deletions returns up to limit users who are being deleted, and whose slot is mine; nil: all are.
func Deletions(ctx context.Context, store kv.Store, keys Keys, mine func(slot id.Slot) bool, limit int) ([]Deletion, error) {
	var all []Deletion
	start := keys.Deleting(nil, "")
	err := store.Scan(ctx, kv.Span{Start: start, End: prefixEnd(bytes.Clone(start))}, func(key, value []byte) (bool, error) {
		user := id.UserID(key[len(start):])
		if mine != nil && !mine(user.Slot()) {
			return true, nil
		}
		since, err := ParseDeleting(value)
		all = append(all, Deletion{user, since})
		return len(all) != limit, err
	})
	if err != nil {
		return nil, fmt.Errorf("read which users are being deleted: %w", err)
	}
	return all, nil
}

// closedDeleted is the state, in the second byte of the row of a closed account, of one that was deleted.
const closedDeleted = 2

// Deleted reports whether raw, the row of a closed account (nil: none), says that it was deleted.
func Deleted(raw []byte) bool { return len(raw) > 1 && raw[0] == rowVersion && raw[1] == closedDeleted }

// LevelCopying is the feature level in the meta row of a store that another one is being copied into: no node
// of any release opens it. See package migration.
const LevelCopying = math.MaxUint32

// ErrCopying: the store is a copy that isn't complete.
var ErrCopying = errors.New("msgstore: another store is being copied into this one, and the copy isn't complete")

// Rows of the store that say how a copy stands. They are the target's own, and are never copied.
const (
	copyRowName = "copy"
	copyRows    = "copy:" // and a part's number, in decimal
)

// Copy is what a store says about where its rows were copied from. It stays when the copy is complete.
//
// Row "copy": version, ID in 16 bytes, From, Epoch, FeatureLevel, Begun, Done, Rows, Bytes.
type Copy struct {
	ID           [16]byte // of the migration: the same one goes on with it
	From         uint64   // the source's epoch
	Epoch        uint64   // the target's, once the copy is complete
	FeatureLevel uint32   // likewise
	Begun, Done  int64    // Unix ms; Done 0: it isn't complete
	Rows, Bytes  uint64   // when it is complete: what was copied, and of how many bytes its keys and values were
}

// Append appends the row to dst.
func (c *Copy) Append(dst []byte) []byte {
	dst = append(dst, rowVersion)
	dst = append(dst, c.ID[:]...)
	for _, v := range []uint64{c.From, c.Epoch, uint64(c.FeatureLevel), uint64(c.Begun), uint64(c.Done), c.Rows, c.Bytes} {
		dst = binary.AppendUvarint(dst, v)
	}
	return dst
}

// ParseCopy reads the row.
func ParseCopy(b []byte) (Copy, error) {
	var c Copy
	r := reader{b: b}
	r.version()
	copy(c.ID[:], r.bytes(16))
	c.From, c.Epoch = r.uvarint(), r.uvarint()
	level := r.uvarint()
	c.Begun, c.Done = r.time(), r.time()
	c.Rows, c.Bytes = r.uvarint(), r.uvarint()
	err := r.end()
	if err == nil && level > math.MaxUint32 {
		err = ErrCorrupt
	}
	if err != nil {
		return Copy{}, fmt.Errorf("row of a copy: %w", err)
	}
	c.FeatureLevel = uint32(level)
	return c, nil
}

// CopyState is how far a part of a copy is.
type CopyState uint8

// The states of a part, in their order.
const (
	PartCopying  CopyState = iota // up to and with the row Cursor
	PartCopied                    // wholly, and synced
	PartVerified                  // and every row was compared
)

// CopyPart is how a part of a copy stands. The row goes when the copy is complete.
//
// Row "copy:" and the part's number: version, state u8, Rows, Bytes, the cursor's length and bytes.
type CopyPart struct {
	State       CopyState
	Rows, Bytes uint64 // copied
	Cursor      []byte // the source's key up to which, inclusive, all is copied, without its keyspace; empty: nothing is
}

// Append appends the row to dst.
func (p *CopyPart) Append(dst []byte) []byte {
	dst = append(dst, rowVersion, byte(p.State))
	dst = binary.AppendUvarint(dst, p.Rows)
	dst = binary.AppendUvarint(dst, p.Bytes)
	dst = binary.AppendUvarint(dst, uint64(len(p.Cursor)))
	return append(dst, p.Cursor...)
}

// ParseCopyPart reads the row. The cursor is a copy.
func ParseCopyPart(b []byte) (CopyPart, error) {
	var p CopyPart
	r := reader{b: b}
	r.version()
	state := r.byte()
	p.Rows, p.Bytes = r.uvarint(), r.uvarint()
	if n := r.uvarint(); n > kv.MaxKey {
		r.fail(ErrCorrupt)
	} else {
		p.Cursor = bytes.Clone(r.bytes(int(n)))
	}
	err := r.end()
	if err == nil && state > byte(PartVerified) {
		err = ErrCorrupt
	}
	if err != nil {
		return CopyPart{}, fmt.Errorf("row of a part of a copy: %w", err)
	}
	p.State = CopyState(state)
	return p, nil
}

// Meta is the key of the row in which the store says what it is.
func (k Keys) Meta(dst []byte) []byte { return append(dst, k.StoreRow(nil, metaRowName)...) }

// Copy is the key of the row that says where the store's rows were copied from.
func (k Keys) Copy(dst []byte) []byte { return append(dst, k.StoreRow(nil, copyRowName)...) }

// CopyPart is the key of the row that says how a part of a copy stands.
func (k Keys) CopyPart(dst []byte, part int) []byte {
	return append(dst, k.StoreRow(nil, copyRows+strconv.Itoa(part))...)
}

// KeyspaceLen is the number of bytes at the beginning of a key that name its keyspace: what
// follows is the same in every keyspace.
const KeyspaceLen = 2

// Whole is the range of all keys of the keyspace, of any layout; end nil: to the end of the store.
func (k Keys) Whole() (start, end []byte) {
	start = binary.BigEndian.AppendUint16(nil, k.Keyspace)
	return start, prefixEnd(bytes.Clone(start))
}

// Portable returns the ranges of keys that hold what an installation takes along to another store, cut
// into parts of about the same number of slots, the rows of the whole store in the last two. Left out is
// what belongs to the engine: the embedded bus. Own tells which of the keys aren't to be taken along, either.
func (k Keys) Portable(parts int) [][2][]byte {
	bounds := k.SlotBounds(parts)
	all := make([][2][]byte, 0, len(bounds)+1)
	for i := range len(bounds) - 1 {
		all = append(all, [2][]byte{bounds[i], bounds[i+1]})
	}
	store := k.prefix(nil, id.SlotStore)
	all[len(all)-1][1] = k.prefix(nil, id.SlotCount)
	return append(all, [2][]byte{store, append(bytes.Clone(store), storeBusRef)}, [2][]byte{append(bytes.Clone(store), storeDeleting), k.end()})
}

// Foreign returns the ranges in which there must be no keys: of another layout, or of slots that there are none of.
func (k Keys) Foreign() [][2][]byte {
	start, end := k.Whole()
	return [][2][]byte{{start, k.All(nil)}, {k.prefix(nil, id.SlotCount), k.prefix(nil, id.SlotStore)}, {k.end(), end}}
}

// Own tells whether key is of a row that a store keeps to itself: what it is, and how a copy into it stands.
func (k Keys) Own(key []byte) bool {
	name, ok := bytes.CutPrefix(key, k.StoreRow(nil, ""))
	return ok && (string(name) == metaRowName || string(name) == copyRowName || strings.HasPrefix(string(name), copyRows))
}

// ReadMeta reads what the store says about itself; raw nil: it says nothing, and holds nothing if it is a store of
// ours. A store that this code must not touch is ErrLayout, ErrSlots, ErrFeatureLevel, ErrVersion, or
// ErrCopying, with the row as it is.
func ReadMeta(ctx context.Context, store kv.Store, keys Keys) (m Meta, raw []byte, err error) {
	if raw, err = store.Get(ctx, keys.Meta(nil)); err != nil || raw == nil {
		return m, nil, err
	}
	if m, err = ParseMeta(raw); err == nil {
		err = m.check()
	}
	return m, raw, err
}
