package gochat

import (
	"testing"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
)

func TestHeartbeatLearns(t *testing.T) {
	const s = time.Second
	for name, c := range map[string]struct {
		ends []link
		want []time.Duration // the wish after each
	}{
		"dead again and again": {[]link{
			{heartbeat: 60 * s, beatMin: 20 * s, silent: true}, {heartbeat: 30 * s, beatMin: 20 * s, silent: true}, {heartbeat: 20 * s, beatMin: 20 * s, silent: true},
		}, []time.Duration{30 * s, 20 * s, 20 * s}},
		"steady": {[]link{
			{heartbeat: 60 * s, beatMax: 100 * s, beats: steadyBeats}, {heartbeat: 90 * s, beatMax: 100 * s, beats: steadyBeats}, {heartbeat: 100 * s, beatMax: 100 * s, beats: steadyBeats},
		}, []time.Duration{90 * s, 100 * s, 100 * s}},
		"too long once": {[]link{
			{heartbeat: 60 * s, beatMax: 600 * s, beats: steadyBeats}, {heartbeat: 90 * s, silent: true}, {heartbeat: 45 * s, beatMax: 600 * s, beats: 100}, {heartbeat: 67 * s, beatMax: 600 * s, beats: 100},
		}, []time.Duration{90 * s, 45 * s, 67*s + s/2, 67*s + s/2}},
		"short-lived": {[]link{{heartbeat: 60 * s, beatMax: 600 * s, beats: steadyBeats - 1}}, []time.Duration{0}},
	} {
		var b heartbeat
		for i := range c.ends {
			if b.learn(&c.ends[i]); b.wish != c.want[i] {
				t.Errorf("%s: after %d connections %v, want %v", name, i+1, b.wish, c.want[i])
			}
		}
	}
}

// A connection over which nothing comes any more is given up, and the next one asks for less silence.
func TestHeartbeatOfASilentNetwork(t *testing.T) {
	s, r := newScripted(t), newRecorder()
	open(t, s.address(), r, func(c *Config) { c.DeadAfter = 50 * time.Millisecond })
	ack := func() *wire.Connack {
		return &wire.Connack{HeartbeatSeconds: 2, HeartbeatMinSeconds: 1, HeartbeatMaxSeconds: 4}
	}
	p, hello := s.welcome(ack())
	if hello.HeartbeatSeconds != 0 {
		t.Errorf("asks for %d s at first", hello.HeartbeatSeconds)
	}
	if f, err := p.next(); err != nil || f.Type != frame.Ping { // and no answer comes
		t.Fatalf("%v, %v", f.Type, err)
	}
	if _, hello = s.welcome(ack()); hello.HeartbeatSeconds != 1 {
		t.Errorf("asks for %d s after silence", hello.HeartbeatSeconds)
	}
}
