package load

import (
	"context"
	"fmt"
	"time"

	"github.com/gochat-im/gochat/bench/loop"
	"github.com/gochat-im/gochat/bench/measure"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/packet"
)

// run runs the load and measures its second part.
func (r *groupRun) run(ctx context.Context, res *GroupResult) error {
	if r.Measure == 0 {
		return nil
	}
	if mem, err := r.Target.memory(); err == nil {
		res.RestRSS = mem.RSS
	}
	r.phase = loading
	for i := range r.members {
		if m := &r.members[i]; m.slow {
			m.Pause()
		}
	}
	now := r.loop.Now()
	if r.Rate > 0 {
		r.plan = loop.NewSchedule(now, r.Rate/float64(r.Burst))
	} else {
		for i := range r.lanes {
			l := &r.lanes[i]
			for range r.Window {
				l.send(r.loop.Now())
			}
			l.m.Flush()
		}
	}
	if err := r.until(ctx, now+int64(r.Warm)/2); err != nil {
		return err
	}
	stats, err := r.Target.stats(ctx) // as pairs: the other half is for what that held up
	if err != nil {
		return err
	}
	if err := r.until(ctx, r.loop.Now()+int64(r.Warm)/2); err != nil {
		return err
	}
	server, err := r.Target.cpuByProcess()
	if err != nil {
		return err
	}
	client := measure.OwnCPU()
	from := r.loop.Now()
	r.load.from, r.load.to = from, from+int64(r.Measure)
	r.now, r.counting = &r.load, true
	if err := r.until(ctx, r.load.to); err != nil {
		return err
	}
	r.counting = false
	r.peak = max(r.peak, r.Target.rss()) // a short load may have ended before it was ever looked at
	res.Seconds = float64(r.loop.Now()-from) / 1e9
	serverEnd, err := r.Target.cpuByProcess()
	if err != nil {
		return err
	}
	clientEnd := measure.OwnCPU()
	if err := r.until(ctx, r.loop.Now()+int64(r.Warm)/2); err != nil {
		return err
	}
	statsEnd, err := r.Target.stats(ctx)
	if err != nil {
		return err
	}
	res.Sent, res.Acked, res.Delivered = float64(r.sent)/res.Seconds, float64(r.acked)/res.Seconds, float64(r.received)/res.Seconds
	res.ServerCPU = float64(between(server, serverEnd).Nanoseconds()) / 1e3 / float64(max(r.acked, 1))
	res.DeliveryCPU = float64(between(server, serverEnd).Nanoseconds()) / 1e3 / float64(max(r.received, 1))
	res.Processes = r.Target.use(server, serverEnd, float64(max(r.received, 1)))
	res.ClientCPU = float64((clientEnd - client).Nanoseconds()) / 1e3 / float64(max(r.received, 1))
	res.TiKV = statsEnd.TiKV.since(stats.TiKV)
	if commits := statsEnd.Commits - stats.Commits; commits > 0 {
		res.PerCommit = (statsEnd.Stored - stats.Stored) / commits
	}
	return nil
}

// drain stops sending and waits until everybody who reads has everything.
func (r *groupRun) drain(ctx context.Context, _ *GroupResult) error {
	r.phase = draining
	for i := range r.lanes {
		r.lanes[i].waiting = nil // never sent
	}
	// What stays unanswered, or never comes, is in the verifier's result.
	err := r.settle(ctx, func() error { return nil })
	for i := range r.members {
		m := &r.members[i]
		m.recvAck()
		if !m.slow {
			m.Flush()
		}
	}
	return err
}

// wake lets the slow members read again, each until it holds everything.
func (r *groupRun) wake(ctx context.Context, res *GroupResult) error {
	if r.Slow == 0 || r.Measure == 0 {
		return nil
	}
	r.phase = waking
	began := r.loop.Now()
	slow := r.members[r.Members-r.Slow:]
	begun := 0
	for seen, at := r.progress, began; r.awake < len(slow); {
		for ; begun < len(slow) && begun-r.awake < walksAtOnce; begun++ {
			m := &slow[begun]
			m.awake = true
			if m.gone {
				m.redial()
				continue
			}
			m.Widen(wideBuffer)
			m.Resume()
			m.pull()
		}
		if err := r.poll(ctx, 20*time.Millisecond); err != nil {
			return err
		}
		if r.progress != seen {
			seen, at = r.progress, r.loop.Now()
		}
		if r.loop.Now()-at > int64(stillness) {
			break // who hasn't everything is in the verifier's result
		}
	}
	res.Waking = float64(r.loop.Now()-began) / 1e9
	if mem, err := r.Target.memory(); err == nil {
		res.WokenRSS = mem.RSS
	}
	return nil
}

// redial connects anew.
func (m *member) redial() {
	r := m.r
	m.Close()
	token, err := r.Target.Token(m.user)
	if err == nil {
		m.ready, m.asking, m.token = false, nothing, token
		err = r.loop.Dial(&m.Conn, r.Target.over(&m.Conn, m), r.Target.Addr, r.dial.source(m.index))
	}
	if err != nil {
		r.fail(fmt.Errorf("%s connects again: %w", m.user, err))
	}
}

// settled counts a slow member that holds everything.
func (m *member) settled() {
	if r := m.r; !m.whole && m.got.Mark >= r.highest {
		m.whole = true
		r.awake++
	}
}

// walk lets one member read the whole timeline back.
func (r *groupRun) walk(ctx context.Context, res *GroupResult) error {
	r.phase = walking
	began := r.loop.Now()
	m := &r.members[0]
	m.asking = walk
	m.sync()
	for seen, at := r.progress, began; !r.walked; {
		if err := r.poll(ctx, 20*time.Millisecond); err != nil {
			return err
		}
		if r.progress != seen {
			seen, at = r.progress, r.loop.Now()
		}
		if r.loop.Now()-at > int64(stillness) {
			break
		}
	}
	res.VerifySec = float64(r.loop.Now()-began) / 1e9
	return nil
}

// pull asks for what a gap, a hint or silence says is missing, one SYNC at a time.
func (m *member) pull() {
	if m.asking == pull {
		m.again = true // the answer under way may have been read before
		return
	}
	if m.asking == nothing {
		m.asking, m.again = pull, false
		m.copies.Pulls++
		m.sync()
	}
}

// sync sends the SYNC that m.asking calls for.
func (m *member) sync() {
	switch m.asking {
	case nothing:
		return
	case pull:
		m.from = m.got.Mark + 1
	case walk:
		m.from = m.r.book.Walked() + 1
	}
	m.syncID++
	out, err := packet.AppendBody(m.Out, frame.Sync, frame.FlagRequestID, m.syncID|syncIDs,
		&wire.Sync{Ranges: []*wire.SyncRange{{ConversationId: m.r.conv[:], FromSeq: m.from}}})
	if err != nil {
		m.r.fail(fmt.Errorf("encode a SYNC: %w", err))
		return
	}
	m.Out = out
	m.Flush()
}

// syncIDs sets the request ids of SYNCs apart from those of SENDs.
const syncIDs = 1 << 31

// synced takes one part of the answer.
func (m *member) synced(f *frame.Frame, now int64) {
	r := m.r
	page, refused, err := packet.DecodeSynced(f.Body)
	if err != nil || refused != nil {
		if err == nil {
			err = refused
		}
		r.fail(fmt.Errorf("SYNC of %s: %w", m.user, err))
		return
	}
	switch id := f.ReqID &^ syncIDs; {
	case id < m.syncID:
		return // of a pull that the walk has overtaken
	case id > m.syncID || page.Conversation != r.conv || page.FromSeq < m.from:
		r.fail(fmt.Errorf("SYNCED of %s answers request %d about %s from %d, which it didn't ask", m.user, f.ReqID, page.Conversation, page.FromSeq))
		return
	}
	before := m.got.Mark
	for messages := page.Messages; len(messages) > 0; {
		v, rest, err := packet.NextMessage(messages)
		if err != nil {
			r.fail(fmt.Errorf("SYNCED of %s: %w", m.user, err))
			return
		}
		messages = rest
		r.progress++
		switch {
		case v.Seq <= r.base:
		case m.asking == walk:
			r.book.Stored(&v)
		default:
			r.shown(&v)
			m.copies.Pulled += m.got.AddRange(v.Seq, v.Seq)
		}
	}
	more := f.Flags&frame.FlagMore != 0
	if m.asking == walk {
		if more {
			return
		}
		if page.ToSeq >= page.FromSeq {
			r.book.Answered(page.ToSeq)
		}
		r.head = page.LastSeq
		if r.book.Walked() < r.head && r.book.Walked() >= m.from {
			m.sync()
			return
		}
		m.asking, r.walked = nothing, true
		return
	}
	if page.ToSeq >= page.FromSeq && m.got.Mark < page.ToSeq {
		r.holes += m.got.AddRange(m.got.Mark+1, page.ToSeq) // they will never come
	}
	if !more {
		m.asking = nothing
		// A page may end below the head, with no further hint to come for the rest.
		unfinished := page.ToSeq >= page.FromSeq && page.ToSeq < page.LastSeq
		if from, _ := m.got.Missing(); from != 0 && m.lane == nil || m.again || unfinished {
			m.pull()
		}
	}
	if m.got.Mark != before {
		m.moved(before, now)
	} else if m.awake {
		m.settled()
	}
}

// until drives the load up to end.
func (r *groupRun) until(ctx context.Context, end int64) error {
	for {
		now := r.loop.Now()
		if now >= end {
			return nil
		}
		wait := min(time.Duration(end-now), r.pace())
		if r.Rate > 0 && r.phase == loading {
			r.sendDue(now)
			wait = min(wait, r.plan.Wait(r.loop.Now()))
		}
		if err := r.poll(ctx, wait); err != nil {
			return err
		}
		if now-r.peakAt > int64(100*time.Millisecond) {
			r.peakAt = now
			r.peak = max(r.peak, r.Target.rss())
		}
	}
}

// pace is how long to wait for events at most: slow members read by the clock.
func (r *groupRun) pace() time.Duration {
	if r.phase == loading && r.Trickle > 0 {
		return 10 * time.Millisecond
	}
	return 100 * time.Millisecond
}

// sendDue sends what is due, in the senders' turn.
func (r *groupRun) sendDue(now int64) {
	for {
		event, at, ok := r.plan.Due(now)
		if !ok {
			return
		}
		if r.counting {
			r.late.Record(now - at)
		}
		l := &r.lanes[int(event%int64(len(r.lanes)))]
		for range r.Burst {
			l.sendDue(at)
		}
		l.m.Flush()
		now = r.loop.Now()
	}
}

// poll handles what has arrived, and the timers.
func (r *groupRun) poll(ctx context.Context, wait time.Duration) error {
	if _, err := r.loop.Poll(wait); err != nil {
		return err
	}
	if r.failed != nil {
		return r.failed
	}
	now := r.loop.Now()
	if r.beating {
		r.heart.Turn(now, func(i int) {
			if m := &r.members[i]; m.ready {
				m.Out = append(m.Out, ping...)
				m.Flush()
			}
		})
		if r.RecvAck > 0 && r.base != 0 {
			r.confirm.Turn(now, func(i int) {
				if m := &r.members[i]; m.ready && m.told < m.got.Mark {
					m.recvAck()
					m.Flush()
				}
			})
		}
		r.stale.Turn(now, func(i int) { r.members[i].listen() })
		if r.phase == loading && r.Trickle > 0 {
			r.trickle.Turn(now, func(i int) {
				if i < r.Slow {
					r.members[r.Members-r.Slow+i].Take(max(r.Trickle/4, 1))
				}
			})
		}
	}
	r.retries.due(now)
	return ctx.Err()
}

// listen asks for what a member is behind with, if nothing has come since it was looked at last, when it was behind, too.
func (m *member) listen() {
	r := m.r
	if r.base == 0 || m.slow && !m.awake || !m.ready {
		return
	}
	if m.got.Mark >= r.highest {
		m.behind = 0
		return
	}
	if m.behind == m.got.Mark {
		m.pull()
	}
	m.behind = m.got.Mark
}

func (r *groupRun) fail(err error) {
	if r.failed == nil {
		r.failed = blame(err)
	}
}
