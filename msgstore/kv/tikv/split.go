package tikv

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	pdhttp "github.com/tikv/pd/client/http"
	"github.com/tikv/pd/client/opt"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// PreSplit cuts the key range that bounds names into regions and spreads them over the cluster's servers, so that
// a new installation doesn't begin on one of them. bounds is given the number of regions wanted, and
// returns where they begin and, last, where the range ends. It is for whoever is about to make a new
// store; cutting where a region begins already changes nothing, so several may do it at once.
func (s *Store) PreSplit(ctx context.Context, bounds func(regions int) [][]byte) error {
	if !s.inside.enter() {
		return fmt.Errorf("split: %w", kv.ErrClosed)
	}
	defer s.inside.leave()
	stores, err := s.pd.GetAllStores(ctx, opt.WithExcludeTombstone())
	if err != nil {
		return fmt.Errorf("split: ask PD for the servers: %w", err)
	}
	n := max(len(stores), 1) * s.cfg.RegionsPerStore
	keys := bounds(n)
	if len(keys) < 2 {
		return errors.New("split: the range has no bounds")
	}
	if err := s.keepApart(ctx, keys[0], keys[len(keys)-1]); err != nil {
		s.log.Warn("PD will merge regions again while they are small", "err", err)
	}
	if _, err := s.client.SplitRegions(ctx, keys, len(stores) > 1, nil); err != nil {
		return fmt.Errorf("split into %d regions: %w", n, err)
	}
	s.log.Info("the store was split", "regions", n, "servers", len(stores))
	return nil
}

// keepApart tells PD not to merge regions of the range: it does so with small ones after an hour.
func (s *Store) keepApart(ctx context.Context, start, end []byte) error {
	api := s.client.GetPDHTTPClient()
	if api == nil {
		return errors.New("no HTTP client of PD")
	}
	from, to := hex.EncodeToString(s.encode(start)), hex.EncodeToString(s.encode(end))
	return api.SetRegionLabelRule(ctx, &pdhttp.LabelRule{
		ID:       "gochat/" + from,
		Labels:   []pdhttp.RegionLabel{{Key: "merge_option", Value: "deny"}},
		RuleType: "key-range",
		Data:     []map[string]string{{"start_key": from, "end_key": to}},
	})
}
