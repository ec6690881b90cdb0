package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// exitKept is the status when a message isn't stored yet, but waits on this machine to be sent.
const exitKept = 4

// keptError is what a script may treat as done, later.
type keptError struct {
	left int
	why  error // nil: no answer in time
}

func (e keptError) Error() string {
	text := fmt.Sprintf("%d messages are not stored yet: they wait here, and the next `gochat send` of this profile sends them first", e.left)
	if e.why != nil {
		return e.why.Error() + "; " + text
	}
	return text
}

// sending is what `gochat send` was asked to do.
type sending struct {
	to       string
	lines    bool
	json     bool
	reply    uint64
	mentions []string
	timeout  time.Duration
}

func sendCommand() *cobra.Command {
	var f clientFlags
	var s sending
	cmd := &cobra.Command{
		Use:   "send [TEXT…]",
		Short: "Send a message, from a script",
		Long: "Sends one message, its text from the arguments or else from the input, and returns when the server has stored it.\n\n" +
			"It is a device of its own, so it works while `gochat chat` or `gochat tail` are open under the same profile.\n" +
			"Ends with status 0 when everything is stored, 1 if something was refused, and 4 if the server didn't answer in time,\n" +
			"or had signed this device out: then the message waits on this machine, and the next `gochat send` of the profile signs in anew, if it\n" +
			"can, and sends it first.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd.Context(), &f, args, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&s.to, "to", "", "a user, or the id of a conversation (required)")
	cmd.Flags().BoolVar(&s.lines, "lines", false, "every line of the input is a message")
	cmd.Flags().BoolVar(&s.json, "json", false, "print where each message was stored, as one JSON object a line")
	cmd.Flags().Uint64Var(&s.reply, "reply", 0, "seq of the message that this one replies to")
	cmd.Flags().StringSliceVar(&s.mentions, "mention", nil, "a user whom the message calls; all: everyone")
	cmd.Flags().DurationVar(&s.timeout, "timeout", 30*time.Second, "how long to wait for the server")
	_ = cmd.MarkFlagRequired("to")
	return cmd
}

// target reads a user's name or a conversation's id.
func target(to string) (gochat.Target, error) {
	if conv, err := id.ParseConversation(to); err == nil {
		return gochat.ToConversation(conv), nil
	}
	if user := id.UserID(to); user.Valid() {
		return gochat.ToUser(user), nil
	}
	return gochat.Target{}, usageError{fmt.Errorf("--to %q: want a user or the id of a conversation", to)}
}

// outbox is a store without cursors: what comes meanwhile is for the profile's other devices, so a
// device that only sends never catches up with what it missed.
type outbox struct{ *gochat.FileStore }

func (o outbox) Load() (gochat.State, error) {
	st, err := o.FileStore.Load()
	st.Cursors = nil
	return st, err
}

func (o outbox) SetCursor(id.ConversationID, gochat.Cursor) error { return nil }

func (s *sending) run(ctx context.Context, f *clientFlags, args []string, in io.Reader, out io.Writer) error {
	to, err := target(s.to)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	p, store, err := f.part(ctx, "send", true)
	if err != nil {
		return err
	}
	stopped := make(chan error, 1)
	client, err := p.open(f.server, gochat.Config{Store: outbox{store}, Backlog: -1, Handler: func(e gochat.Event) {
		if e, ok := e.(gochat.Stopped); ok {
			stopped <- e.Err
		}
	}})
	if err != nil {
		return err
	}
	defer client.Close()
	var receipts []*gochat.Receipt
	queue := func(text string) error {
		content := gochat.Text(text)
		content.ReplyToSeq = s.reply
		for _, u := range s.mentions {
			if u == "all" {
				content.MentionAll = true
			} else {
				content.Mentions = append(content.Mentions, u)
			}
		}
		r, err := client.Send(ctx, to, content)
		if err != nil {
			return fmt.Errorf("not sent: %w", err)
		}
		receipts = append(receipts, r)
		return nil
	}
	if err := s.texts(args, in, queue); err != nil {
		return err
	}
	for i, r := range receipts {
		ack, err := r.Wait(ctx)
		switch {
		case ctx.Err() != nil:
			return keptError{left: len(receipts) - i}
		case errors.Is(err, gochat.ErrStopped):
			return keptError{len(receipts) - i, p.ended(<-stopped)}
		case err != nil:
			return fmt.Errorf("not sent: %w", err)
		}
		if err := s.print(out, ack); err != nil {
			return err
		}
	}
	return nil
}

// texts hands every message to queue: the arguments, or the input, or each line of it.
func (s *sending) texts(args []string, in io.Reader, queue func(string) error) error {
	switch {
	case len(args) > 0 && s.lines:
		return usageError{errors.New("--lines reads the input: give no text beside it")}
	case len(args) > 0:
		return queue(strings.Join(args, " "))
	case !s.lines:
		raw, err := io.ReadAll(io.LimitReader(in, packet.HardMaxContent+2))
		if err != nil {
			return fmt.Errorf("reading the message: %w", err)
		}
		return queue(strings.TrimRight(string(raw), "\r\n"))
	}
	sc := bufio.NewScanner(in)
	sc.Buffer(nil, packet.HardMaxContent+2)
	for sc.Scan() {
		if line := strings.TrimRight(sc.Text(), "\r"); line != "" {
			if err := queue(line); err != nil {
				return err
			}
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("reading the messages: %w", err)
	}
	return nil
}

// print writes the protocol's JSON form of the SENDACK, if that was asked for.
func (s *sending) print(out io.Writer, ack gochat.Ack) error {
	if !s.json {
		return nil
	}
	return printFrame(out, frame.SendAck, &wire.SendAck{Seq: ack.Seq, MessageId: uint64(ack.MessageID), ConversationId: ack.Conversation[:], Duplicate: ack.Duplicate})
}

// printFrame writes a frame's JSON form on a line of its own.
func printFrame(out io.Writer, t frame.Type, body packet.Body) error {
	raw, err := body.Marshal(nil)
	if err != nil {
		return fmt.Errorf("encoding a %v: %w", t, err)
	}
	text, err := packet.ToJSON(frame.Frame{Type: t, Body: raw})
	if err != nil {
		return fmt.Errorf("writing a %v as JSON: %w", t, err)
	}
	if _, err := out.Write(append(text, '\n')); err != nil {
		return fmt.Errorf("writing to %s: %w", os.Stdout.Name(), err)
	}
	return nil
}
