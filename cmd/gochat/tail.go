package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/gochat-im/gochat/cmd/gochat/tui"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// tailing is what `gochat tail` was asked to do.
type tailing struct {
	json    bool
	others  bool
	in      []string
	backlog int
}

func tailCommand() *cobra.Command {
	var f clientFlags
	var t tailing
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Print messages as they come, for a script",
		Long: "Prints every message of the profile's conversations, in order within each, until it is interrupted. It remembers what it printed:\n" +
			"started again it goes on where it was, with what came while it was away. Only if its output can't be written, or the machine\n" +
			"fails, the last messages are printed once more; after a restore of the server all of them are.\n\n" +
			"It is a device of its own, so it works while `gochat chat` is open under the same profile. What it prints doesn't count as read.\n" +
			"With --json each line is one object, as docs and protocol/SPEC.md (JSON form) have it:\n\n" +
			`  {"type":"message","data":{"msg_id":"…","conversation_id":"…","sender_id":"bob","receiver_id":"alice","msg_type":1,"content":"hello",…}}`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.run(cmd.Context(), &f, cmd.OutOrStdout())
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&t.json, "json", false, "one JSON object a line")
	cmd.Flags().BoolVar(&t.others, "others", false, "leave out what the profile's own devices sent")
	cmd.Flags().StringSliceVar(&t.in, "in", nil, "only the direct conversation with this user, or the conversation with this id; may be given again")
	cmd.Flags().IntVar(&t.backlog, "backlog", 0, "when it runs for the first time: that many messages of each conversation to begin with")
	return cmd
}

// firstMark tells when the list of conversations was read for the first time.
type firstMark struct {
	*gochat.FileStore
	once sync.Once
	read chan struct{}
}

func (s *firstMark) SetSession(v gochat.Session) error {
	err := s.FileStore.SetSession(v)
	if err == nil && v.SyncMark != 0 {
		s.once.Do(func() { close(s.read) })
	}
	return err
}

func (t *tailing) run(ctx context.Context, f *clientFlags, out io.Writer) error {
	if t.backlog < 0 {
		return usageError{fmt.Errorf("--backlog %d: want 0 or more", t.backlog)}
	}
	p, store, err := f.part(ctx, "tail", false)
	if err != nil {
		return err
	}
	wanted := map[id.ConversationID]bool{}
	for _, name := range t.in {
		to, err := target(name)
		if err != nil {
			return err
		}
		if to.Conversation.IsZero() {
			to.Conversation = id.Direct(p.userID(), to.User)
		}
		wanted[to.Conversation] = true
	}
	ended := make(chan error, 1)
	end := func(err error) {
		select {
		case ended <- err:
		default:
		}
	}
	handler := func(e gochat.Event) {
		switch e := e.(type) {
		case gochat.MessageReceived:
			m := e.Message
			if t.others && m.Own || len(wanted) > 0 && !wanted[m.Conversation] {
				return
			}
			if err := t.print(out, p.userID(), m); err != nil {
				end(err)
				select {} // what wasn't printed must not count as received: the process ends without the client knowing
			}
		case gochat.Stopped:
			end(p.ended(e.Err))
		case gochat.Disconnected:
			fmt.Fprintf(os.Stderr, "disconnected: %v; again in %v\n", e.Err, e.Retry.Round(100*time.Millisecond))
		}
	}
	st, err := store.Load()
	if err != nil {
		return err
	}
	if st.Session.SyncMark == 0 {
		// A new device begins at the newest messages, or some before. Afterwards a conversation that is new
		// to it is new, and it wants all of it: the client is opened again.
		first := &firstMark{FileStore: store, read: make(chan struct{})}
		client, err := p.open(f.server, gochat.Config{Store: first, Handler: handler, Backlog: cmp.Or(t.backlog, -1)})
		if err != nil {
			return err
		}
		select {
		case <-first.read:
		case err := <-ended:
			return err
		case <-ctx.Done():
			return client.Close()
		}
		if err := client.Close(); err != nil {
			return err
		}
		if store, err = p.store(); err != nil {
			return err
		}
	}
	client, err := p.open(f.server, gochat.Config{Store: store, Handler: func(e gochat.Event) {
		if e, ok := e.(gochat.Connected); ok {
			fmt.Fprintf(os.Stderr, "connected as %s\n", tui.OneLine(string(e.User)))
		}
		handler(e)
	}})
	if err != nil {
		return err
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return client.Close()
	}
}

func (t *tailing) print(out io.Writer, me id.UserID, m gochat.Message) error {
	if !t.json {
		where := string(m.Peer)
		if m.Conversation.Kind() != id.KindDirect {
			where = m.Conversation.String()
		}
		_, err := fmt.Fprintf(out, "%s [%s] %s: %s\n", m.Time.Local().Format("2006-01-02 15:04:05"), tui.OneLine(where), tui.OneLine(string(m.Sender)), tui.OneLine(tui.Text(m)))
		return err
	}
	d := &wire.Deliver{ConversationId: m.Conversation[:], Messages: []*wire.Message{wireMessage(&m)}}
	if m.Conversation.Kind() == id.KindDirect {
		d.Users = []string{string(me), string(cmp.Or(m.Peer, me))}
		slices.Sort(d.Users)
	}
	return printFrame(out, frame.Deliver, d)
}

// wireMessage is the message as the server stores it, without what the library doesn't keep.
func wireMessage(m *gochat.Message) *wire.Message {
	w := &wire.Message{
		Seq: m.Seq, MessageId: uint64(m.ID), SenderId: string(m.Sender), ClientMsgId: m.ClientMsgID[:], MsgType: m.Type, Content: m.Text, Data: m.Data,
		Mentions: m.Mentions, MentionAll: m.MentionAll, ReplyToSeq: m.ReplyToSeq, ThreadSeq: m.ThreadSeq, NoCount: m.NoCount, NoPush: m.NoPush,
		OriginDevice: string(m.OriginDevice), Ext: m.Ext, Encryption: m.Encryption,
	}
	if !m.ExpiresAt.IsZero() {
		w.ExpiresAt = uint64(m.ExpiresAt.UnixMilli())
	}
	return w
}
