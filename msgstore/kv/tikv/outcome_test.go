package tikv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/pingcap/log"
	tikverr "github.com/tikv/client-go/v2/error"
	"go.uber.org/zap"

	"github.com/gochat-im/gochat/msgstore/kv"
)

func TestOutcome(t *testing.T) {
	for _, c := range []struct {
		err, want error
	}{
		{nil, nil},
		{tikverr.ErrResultUndetermined, kv.ErrUndetermined},
		{&tikverr.ErrWriteConflict{WriteConflict: &kvrpcpb.WriteConflict{}}, kv.ErrConflict},
		{&tikverr.ErrWriteConflictInLatch{}, kv.ErrConflict},
		{&tikverr.ErrRetryable{Retryable: "again"}, kv.ErrConflict},
		{&tikverr.ErrKeyExist{AlreadyExist: &kvrpcpb.AlreadyExist{}}, kv.ErrConflict},
		{&tikverr.ErrTxnTooLarge{}, kv.ErrTooLarge},
		{&tikverr.ErrEntryTooLarge{}, kv.ErrTooLarge},
		{&tikverr.ErrKeyTooLarge{}, kv.ErrTooLarge},
		{tikverr.ErrTiKVDiskFull, kv.ErrFull},
		{errors.New(`message:"x" disk_full:<store_id:1 reason:"full" > `), kv.ErrFull},
		{tikverr.ErrTiKVServerBusy, kv.ErrUnavailable},
		{tikverr.ErrRegionUnavailable, kv.ErrUnavailable},
		{tikverr.NewErrPDServerTimeout("slow"), kv.ErrUnavailable},
		{context.DeadlineExceeded, kv.ErrUndetermined},
		{errors.New("something new"), kv.ErrUndetermined},
	} {
		err := c.err
		if err != nil {
			err = fmt.Errorf("wrapped: %w", err)
		}
		if got := outcome(err); !errors.Is(got, c.want) || (got == nil) != (c.want == nil) {
			t.Errorf("%v is %v, want %v", c.err, got, c.want)
		}
	}
}

func TestValidate(t *testing.T) {
	pd := []string{"127.0.0.1:2379"}
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{PD: pd}, ""},
		{Config{PD: pd, TLS: TLS{"ca", "cert", "key"}, GroupBytes: kv.MaxTx}, ""},
		{Config{}, "PD"},
		{Config{PD: []string{""}}, "empty address"},
		{Config{PD: pd, TLS: TLS{CA: "ca"}}, "TLS"},
		{Config{PD: pd, GroupTxs: -1}, "GroupTxs"},
		{Config{PD: pd, GroupBytes: kv.MaxTx + 1}, "GroupBytes"},
		{Config{PD: pd, Parallel: -1}, "Parallel"},
		{Config{PD: pd, CommitTimeout: -1}, "CommitTimeout"},
		{Config{PD: pd, RegionsPerStore: 65}, "RegionsPerStore"},
	} {
		if err := c.cfg.Validate(); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.cfg, err, c.want)
		}
	}
	for _, c := range []GCConfig{{}, {Leader: func(context.Context) bool { return true }, Every: -1}, {Leader: func(context.Context) bool { return true }, Retain: 1}} {
		if _, err := c.withDefaults(); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	bridge(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo})))
	defer bridge(slog.New(slog.DiscardHandler))
	log.L().Info("chatter")
	log.L().With(zap.Uint64("region", 7)).Warn("region moved", zap.String("to", "store2"), zap.Error(errors.New("not leader")))
	log.L().Error("gone", zap.Strings("addresses", []string{"a", "b"}))
	got := out.String()
	for _, want := range []string{"level=WARN", `msg="region moved"`, "component=tikv-client", "region=7", "to=store2", `error="not leader"`, "level=ERROR", "addresses="} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in:\n%s", want, got)
		}
	}
	if strings.Contains(got, "chatter") {
		t.Errorf("what is information to the library is ours:\n%s", got)
	}
}

func TestClientMetrics(t *testing.T) {
	for range 2 { // registered once
		families, err := ClientMetrics().Gather()
		if err != nil || len(families) == 0 {
			t.Fatalf("%d families, %v", len(families), err)
		}
		for _, f := range families {
			if strings.HasPrefix(f.GetName(), "go_") {
				t.Errorf("%s is not the client's", f.GetName())
			}
		}
	}
}
