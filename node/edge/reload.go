package edge

import (
	"github.com/gochat-im/gochat/edge/certs"
	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/protocol/code"
)

// Recertify puts cfg's certificates in force. If one can't be used, nothing changes but one that was read before it.
func (e *Edge) Recertify(cfg config.Config) error {
	for section, c := range map[string]struct {
		source *certs.Source
		cfg    config.TLS
	}{"tcp.tls": {e.TCPCert, cfg.TCP.TLS}, "http.tls": {e.HTTPCert, cfg.HTTP.TLS}} {
		switch {
		case (c.source != nil) != c.cfg.On():
			return code.Newf(code.BadRequest, "%s: TLS begins and ends with a restart alone", section)
		case c.source == nil:
			continue
		}
		if err := c.source.Replace(c.cfg.Certificate()); err != nil {
			return code.Newf(code.BadRequest, "%s: %v", section, err)
		}
	}
	return nil
}

// Limit puts cfg's limits and rates in force, or, with an error, none of them. perUser is what the directory of
// sessions was made with.
func (e *Edge) Limit(cfg config.Config, perUser int) error {
	limits := hubLimits(cfg.Limits)
	limits.PerUser = PerUser(perUser)
	if err := e.Hub.SetLimits(limits, allowance(cfg.Limits)); err != nil {
		return err
	}
	e.API.SetAuthPerMinute(cfg.HTTP.AuthPerMinute)
	e.API.SetCallsPerMinute(cfg.HTTP.CallsPerMinute)
	return nil
}

func hubLimits(l config.Limits) hub.Limits {
	return hub.Limits{
		Connections: l.Connections, PerAddress: l.ConnectionsPerAddress,
		ConnectsPerAddress: l.ConnectsPerAddress, Strangers: l.Unauthenticated,
		StrangersPerAddress: strangersPerAddress(l),
	}
}

// strangersPerAddress is half of them, so that one address can never keep everybody else from logging in.
func strangersPerAddress(l config.Limits) int {
	return max(1, min(l.ConnectionsPerAddress, l.Unauthenticated/2))
}

func allowance(l config.Limits) conn.Allowance {
	return conn.Allowance{
		SendsPerSecond: l.SendsPerSecond, UserSendsPerSecond: l.UserSendsPerSecond, BytesPerSecond: int(l.BytesPerSecond), MaxInflight: l.Inflight,
	}
}
