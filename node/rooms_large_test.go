package node

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/bench/target"
	"github.com/gochat-im/gochat/node/config"
)

// In a room of two thousand everybody hears everything, in its order and once; over the room's budget they are told of every
// message that was left out, each of them, and never to fetch anything.
func TestARoomOfTwoThousand(t *testing.T) {
	is, err := target.NewIssuer(t.TempDir(), "HS256")
	if err != nil {
		t.Fatal(err)
	}
	w := newTown(t, func(c *Config, _ *Program) {
		c.Rooms.Create = "anyone"
		c.Issuers = []config.Issuer{{Issuer: is.Name, Algorithm: is.Algorithm, KeyFile: is.KeyFile}}
		c.Rooms.DeliveriesPerSecond = 0
	})
	run := func(name string, rate float64, writers int) *load.RoomResult {
		t.Helper()
		r, err := load.Room{
			Target:  load.Target{Addr: netip.MustParseAddrPort(w.node.TCPAddr().String()), Token: is.Token, Users: name + "-"},
			Members: 2000, Writers: writers, Rate: rate, Body: 100, Name: name, Measure: 500 * time.Millisecond,
		}.Run(w.ctx)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !r.Book.Whole() || !r.Verify.Sound() || r.Verify.Unacked+r.Verify.Refused > 0 || r.Book.Due == 0 {
			t.Errorf("%s: %+v", name, r)
		}
		return r
	}
	if r := run("calm", 40, 3); r.Book.Delivered != r.Book.Due {
		t.Errorf("some was left out: %+v", r.Book)
	}
	if samples, _ := scrape(t, w.node); samples["gochat_rooms_spoken_in"] == "0" || samples["gochat_room_copies_total"] == "0" || samples["gochat_room_left_out_total"] != "0" {
		t.Errorf("metrics: %v", roomSamples(samples))
	}

	// Whatever it costs to bring a message to so many, a budget of a tenth of a message a second is used up by the first.
	if err := w.node.stop(); err != nil {
		t.Fatal(err)
	}
	w.start(func(c *Config, _ *Program) {
		c.Rooms.Create = "anyone"
		c.Issuers = []config.Issuer{{Issuer: is.Name, Algorithm: is.Algorithm, KeyFile: is.KeyFile}}
		c.Rooms.DeliveriesPerSecond = 200
	})
	if r := run("crowded", 40, 2); r.Book.Declared == 0 || r.Book.Delivered == 0 {
		t.Errorf("nothing was left out, or all: %+v", r.Book)
	}
	if samples, _ := scrape(t, w.node); samples["gochat_room_left_out_total"] == "0" || samples["gochat_room_deliveries_missed_total"] != "0" {
		t.Errorf("metrics: %v", roomSamples(samples))
	}
}

func roomSamples(all map[string]string) map[string]string {
	rooms := map[string]string{}
	for name, v := range all {
		if strings.HasPrefix(name, "gochat_room") {
			rooms[name] = v
		}
	}
	return rooms
}
