package etcdnodes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// ErrUnknown is returned for a node that isn't in the registry.
var ErrUnknown = errors.New("there is no such node")

// Drain says of a node that it shall leave, or, with on false, that it stays after all. The node itself
// hears of it (Events.Draining). It holds until the node is started again.
func Drain(ctx context.Context, client *clientv3.Client, prefix, node string, on bool) error {
	key := strings.TrimRight(prefix, "/") + "/nodes/" + node
	for {
		r, err := client.Get(ctx, key)
		if err != nil {
			return fmt.Errorf("reading node %q: %w", node, err)
		}
		if len(r.Kvs) == 0 {
			return fmt.Errorf("%w: %q", ErrUnknown, node)
		}
		// Field by field, so that what a later release has in it stays.
		record := map[string]json.RawMessage{}
		if err := json.Unmarshal(r.Kvs[0].Value, &record); err != nil {
			return fmt.Errorf("reading node %q: %w", node, err)
		}
		if on {
			record["draining"] = json.RawMessage("true")
		} else {
			delete(record, "draining")
		}
		value, err := json.Marshal(record)
		if err != nil {
			return fmt.Errorf("writing node %q: %w", node, err)
		}
		t, err := client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", r.Kvs[0].ModRevision)).
			Then(clientv3.OpPut(key, string(value), clientv3.WithIgnoreLease())).Commit()
		if err != nil {
			return fmt.Errorf("writing node %q: %w", node, err)
		}
		if t.Succeeded {
			return nil
		}
	}
}
