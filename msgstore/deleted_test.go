package msgstore_test

import (
	"errors"
	"testing"

	. "github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

func TestGoldenDeleting(t *testing.T) {
	row := AppendDeleting(nil, 1706284800000)
	if since, err := ParseDeleting(row); err != nil || since != 1706284800000 {
		t.Errorf("read as %d, %v", since, err)
	}
	for n := range row {
		if _, err := ParseDeleting(row[:n]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("the first %d bytes: %v", n, err)
		}
	}
	golden(t, "deleted.golden", []string{"key", "row"}, map[string][]byte{
		"key": Keys{Keyspace: 0x0102}.Deleting(nil, "alice"), "row": row,
	})
}

// A deleted user's list may lack direct conversations, nobody else's and no group; users who
// are being deleted are found in their order.
func TestDeletedUsers(t *testing.T) {
	w := healthy(t)
	w.commit(func(tx *kv.Tx) {
		for _, u := range []id.UserID{"zoe", "al", "bob"} {
			tx.Set(w.keys.Deleting(nil, u), AppendDeleting(nil, int64(len(u))))
		}
		tx.Delete(w.keys.UserSide(nil, "bob", conv))
	})
	w.audit("is a member, but the user's list does not have the conversation")
	w.commit(func(tx *kv.Tx) { tx.Set(w.keys.Closed(nil, "bob"), []byte{1, 1, 5, 0}) }) // banned
	w.audit("is a member, but the user's list does not have the conversation")
	w.commit(func(tx *kv.Tx) { tx.Set(w.keys.Closed(nil, "bob"), []byte{1, 2, 5, 0}) })
	w.audit()
	all, err := Deletions(ctx, w.Store, w.keys, nil, 2)
	w.must(err)
	if len(all) != 2 || all[0] != (Deletion{User: "al", Since: 2}) || all[1] != (Deletion{User: "bob", Since: 3}) {
		t.Errorf("being deleted: %+v", all)
	}
	w.commit(func(tx *kv.Tx) { tx.Set(w.keys.Deleting(nil, "al"), []byte{9}) })
	if _, err := Deletions(ctx, w.Store, w.keys, nil, 0); !errors.Is(err, ErrVersion) {
		t.Errorf("a row of a later version: %v", err)
	}
	w.audit(`user "al"`)
}
