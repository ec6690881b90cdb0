package hub

import (
	"errors"
	"fmt"

	"github.com/gochat-im/gochat/edge/conn"
)

// Limits are those of Config that can change while clients are connected. Who is
// connected stays so when a limit falls below what there is.
type Limits struct {
	Connections, PerUser, PerAddress, ConnectsPerAddress, Strangers, StrangersPerAddress int
}

func (c *Config) limits() Limits {
	return Limits{
		Connections: c.Connections, PerUser: c.PerUser, PerAddress: c.PerAddress, ConnectsPerAddress: c.ConnectsPerAddress,
		Strangers: c.Strangers, StrangersPerAddress: c.StrangersPerAddress,
	}
}

// Validate reports everything that is wrong with l.
func (l Limits) Validate() error {
	var errs []error
	for _, f := range []struct {
		name string
		v    int
	}{
		{"connections", l.Connections}, {"per user", l.PerUser}, {"per address", l.PerAddress},
		{"connects per address", l.ConnectsPerAddress}, {"strangers", l.Strangers}, {"strangers per address", l.StrangersPerAddress},
	} {
		if f.v <= 0 {
			errs = append(errs, fmt.Errorf("hub: %s %d: want more than 0", f.name, f.v))
		}
	}
	if l.Connections > maxSlots {
		errs = append(errs, fmt.Errorf("hub: connections %d: at most %d", l.Connections, maxSlots))
	}
	return errors.Join(errs...)
}

// limits are Limits as they are compared with.
type limits struct {
	Limits
	connects conn.Rate
}

func newLimits(l Limits) *limits {
	return &limits{Limits: l, connects: conn.PerSecond(l.ConnectsPerAddress, connectBurst)}
}

// SetLimits makes l and a hold from now on, both or, if one is wrong, neither.
func (h *Hub) SetLimits(l Limits, a conn.Allowance) error {
	if err := errors.Join(l.Validate(), a.Validate()); err != nil {
		return err
	}
	h.limits.Store(newLimits(l))
	h.edge.Allow(a)
	return nil
}
