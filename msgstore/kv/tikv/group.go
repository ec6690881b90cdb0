package tikv

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	tikverr "github.com/tikv/client-go/v2/error"
	clientkv "github.com/tikv/client-go/v2/kv"
	clienttikv "github.com/tikv/client-go/v2/tikv"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// commitGroup decides the transactions of a group. They are committed as one; if somebody else
// changed what one of them writes, they are judged anew at a later moment, where that one drops out, and if
// that happens again each is committed by itself.
func (s *Store) commitGroup(group []*pending) {
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.CommitTimeout)
	defer cancel()
	txs := make([]*kv.Tx, len(group))
	for i, p := range group {
		txs[i] = p.tx
	}
	for range 2 {
		if !s.attempt(ctx, txs) {
			return
		}
		if len(txs) == 1 {
			return // its conflict is the caller's
		}
		s.totals.reruns.Add(1)
	}
	for i := range txs {
		s.attempt(ctx, txs[i:i+1])
	}
}

// attempt commits the transactions as one and sets their errors. It returns true if
// TiKV refused them for a conflict.
func (s *Store) attempt(ctx context.Context, txs []*kv.Tx) (conflict bool) {
	p, err := s.breaker.enter(len(txs))
	if err != nil {
		s.totals.unavailable.Add(uint64(len(txs)))
		refuse(txs, fmt.Errorf("commit: %w", err))
		return false
	}
	began := time.Now()
	j, err := s.judge(ctx, txs)
	if err != nil {
		p.end(judgement(err))
		err = fmt.Errorf("commit: %w: %w", kv.ErrUnavailable, err)
		s.totals.unavailable.Add(uint64(len(txs)))
		refuse(txs, err)
		return false
	}
	read := time.Since(began)
	var mode Mode
	err = j.commit(ctx, &mode)
	p.end(j.judgement(err))
	kind := outcome(err)
	g := Group{Mode: mode, Read: read, Commit: time.Since(began) - read}
	for i, tx := range txs {
		switch {
		case !j.held[i]: // whatever became of the others, nothing of this one was stored
			tx.Err = fmt.Errorf("required key %x: %w", j.failed[i], kv.ErrConflict)
			g.Conflicts++
		case err != nil:
			tx.Err = fmt.Errorf("commit: %w: %w", kind, err)
		default:
			tx.Err = nil
			g.Txs++
			g.Bytes += tx.Size()
		}
	}
	s.totals.add(&g, kind, len(txs)-g.Conflicts)
	if err == nil && mode != "" && s.cfg.Observe.Group != nil {
		s.cfg.Observe.Group(g)
	}
	return errors.Is(kind, kv.ErrConflict)
}

// outcome is the port's error for one of the client's Commit; nil for nil. What isn't known to have
// stored nothing is undetermined.
func outcome(err error) error {
	var (
		latch   *tikverr.ErrWriteConflictInLatch
		retry   *tikverr.ErrRetryable
		large   *tikverr.ErrTxnTooLarge
		entry   *tikverr.ErrEntryTooLarge
		key     *tikverr.ErrKeyTooLarge
		pdSlow  *tikverr.ErrPDServerTimeout
		tooLate *tikverr.ErrGCTooEarly
	)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, tikverr.ErrResultUndetermined):
		return kv.ErrUndetermined
	case tikverr.IsErrWriteConflict(err), errors.As(err, &latch), errors.As(err, &retry), tikverr.IsErrKeyExist(err):
		return kv.ErrConflict
	case errors.As(err, &large), errors.As(err, &entry), errors.As(err, &key):
		return kv.ErrTooLarge
	case errors.Is(err, tikverr.ErrTiKVDiskFull), strings.Contains(err.Error(), "disk_full:"): // the client gives some of them as text alone
		return kv.ErrFull
	case errors.Is(err, tikverr.ErrTiKVServerBusy), errors.Is(err, tikverr.ErrRegionUnavailable),
		errors.Is(err, tikverr.ErrTiKVMaxTimestampNotSynced), errors.As(err, &pdSlow), errors.As(err, &tooLate):
		return kv.ErrUnavailable // the servers refused it each time; a lost reply would have been undetermined
	}
	return kv.ErrUndetermined
}

// judged are transactions at one moment, those whose requirements hold written into one transaction of TiKV's.
type judged struct {
	txn    *clienttikv.KVTxn
	read   bool // something was read, and answered
	held   []bool
	failed [][]byte // the key whose requirement didn't hold
}

// judge reads what the transactions require and decides in their order which hold: a later one sees
// what an earlier one of the group writes.
func (s *Store) judge(ctx context.Context, txs []*kv.Tx) (*judged, error) {
	ts, err := s.timestamp(ctx)
	if err != nil {
		return nil, err
	}
	txn, err := s.client.Begin(clienttikv.WithStartTS(ts))
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	txn.SetEnable1PC(true)
	txn.SetEnableAsyncCommit(true)
	// The client would ask PD for a second timestamp, so that the commit lies after whatever was committed elsewhere while this
	// transaction was open. The first was asked for after Commit was called, and requirements are judged as of it: what
	// was acknowledged before then lies before it, and what wasn't may be ordered either way.
	txn.SetCausalConsistency(true)
	if txs[0].Frees {
		txn.SetDiskFullOpt(diskFull)
	}
	var keys [][]byte
	for _, tx := range txs {
		for i, ops := 0, tx.Ops(); i < len(ops); i++ {
			if ops[i].Kind == kv.OpRequire {
				keys = append(keys, ops[i].Key)
			}
		}
	}
	var stored map[string]clientkv.ValueEntry
	if keys = distinct(keys); len(keys) > 0 {
		if stored, err = txn.GetSnapshot().BatchGet(ctx, keys); err != nil {
			return nil, fmt.Errorf("read what is required: %w", err)
		}
		s.breaker.hear()
	}
	j := &judged{txn: txn, read: len(keys) > 0, held: make([]bool, len(txs)), failed: make([][]byte, len(txs))}
	written := map[string][]byte(nil) // by the group, nil: deleted
	if len(txs) > 1 {
		written = make(map[string][]byte)
	}
	value := func(key []byte) []byte {
		if v, ok := written[string(key)]; ok {
			return v
		}
		return stored[string(key)].Value
	}
	for n, tx := range txs {
		if j.failed[n] = unmet(tx, value); j.failed[n] != nil {
			continue
		}
		j.held[n] = true
		for i, ops := 0, tx.Ops(); i < len(ops); i++ {
			op := &ops[i]
			switch op.Kind {
			case kv.OpSet:
				err = txn.Set(op.Key, op.Value)
			case kv.OpDelete:
				err = txn.Delete(op.Key)
			default:
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("write key %x: %w", op.Key, err)
			}
			if written != nil {
				written[string(op.Key)] = op.Value
				if op.Kind == kv.OpDelete {
					written[string(op.Key)] = nil
				}
			}
		}
	}
	return j, nil
}

// unmet returns the first key whose requirement doesn't hold.
func unmet(tx *kv.Tx, value func(key []byte) []byte) []byte {
	for i, ops := 0, tx.Ops(); i < len(ops); i++ {
		op := &ops[i]
		if op.Kind != kv.OpRequire {
			continue
		}
		if v := value(op.Key); (len(v) == 0) != op.Absent || !op.Absent && !bytes.Equal(v, op.Value) {
			return op.Key
		}
	}
	return nil
}

// judgement is what the outcome of commit says of the servers: without anything read or written it's PD alone that was there.
func (j *judged) judgement(err error) verdict {
	if err == nil && !j.read && j.txn.Len() == 0 {
		return nothing
	}
	return judgement(err)
}

// commit commits what was written, and sets how. Without anything written there is nothing to do.
func (j *judged) commit(ctx context.Context, mode *Mode) error {
	if j.txn.Len() == 0 {
		return nil
	}
	j.txn.SetCommitCallback(func(info string, _ error) {
		var i struct {
			Mode Mode `json:"txn_commit_mode"`
		}
		if json.Unmarshal([]byte(info), &i) == nil {
			*mode = i.Mode
		}
	})
	return j.txn.Commit(ctx)
}
