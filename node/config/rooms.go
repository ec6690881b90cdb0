package config

import (
	"fmt"
	"time"
)

// Rooms says what rooms there may be, and how much of what is said in them reaches everybody.
type Rooms struct {
	On                  bool          `koanf:"on" doc:"Whether there are rooms: live conversations that anyone who is signed in may enter, in which nobody is a member."`
	Create              string        `koanf:"create" doc:"Who may create one: admins (server keys of scope system); anyone."`
	Members             int           `koanf:"members" doc:"Users who may be in one room."`
	HistoryMessages     int           `koanf:"history_messages" doc:"Of rooms that are created from now on so many of the newest messages are kept, older ones are removed some time within the hour. 0: any number."`
	HistoryAge          time.Duration `koanf:"history_age" doc:"And none that are older. 0, with history_messages 0 too: what retention.room says."`
	DeliveriesPerSecond int           `koanf:"deliveries_per_second" doc:"Messages times connections that one room may be delivered a second: 20 messages a second to 10,000 connections are 200,000. What is above it is left out, and everybody in the room is told how much that was. 0: any number."`
}

func defaultRooms() Rooms {
	return Rooms{On: true, Create: "admins", Members: 100_000, HistoryMessages: 1000, DeliveriesPerSecond: 500_000}
}

func (r *Rooms) validate() (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if r.Create != "admins" && r.Create != "anyone" {
		bad("rooms.create %q: want admins or anyone", r.Create)
	}
	if r.Members < 1 {
		bad("rooms.members %d: want at least 1", r.Members)
	}
	if r.HistoryMessages < 0 {
		bad("rooms.history_messages %d: want 0 (any number) or more", r.HistoryMessages)
	}
	if r.HistoryAge < 0 || r.HistoryAge > 0 && r.HistoryAge < time.Hour {
		bad("rooms.history_age %s: want 0 (whatever their age) or at least 1h", r.HistoryAge)
	}
	if r.DeliveriesPerSecond < 0 {
		bad("rooms.deliveries_per_second %d: want 0 (any number) or more", r.DeliveriesPerSecond)
	}
	return errs
}

// Broadcast says how everybody who is connected is told something.
type Broadcast struct {
	PerSecond int           `koanf:"per_second" doc:"Connections of one edge that are told a second, so that nobody else waits for it."`
	Every     time.Duration `koanf:"every" doc:"The least time between two broadcasts that one node takes."`
}

func (b *Broadcast) validate() (errs []error) {
	if b.PerSecond < 10 {
		errs = append(errs, fmt.Errorf("broadcast.per_second %d: want at least 10", b.PerSecond))
	}
	if b.Every < 0 {
		errs = append(errs, fmt.Errorf("broadcast.every %s: want 0 or more", b.Every))
	}
	return errs
}
