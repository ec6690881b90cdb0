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
			"With --lines each line is sent as it is read; one that is refused is told, by its number, and the others go on.\n" +
			"It is a device of its own, so it works while `gochat chat` or `gochat tail` are open under the same profile.\n" +
			"Ends with status 0 when everything is stored, 1 if something was refused, and 4 if the server didn't answer in time,\n" +
			"or had signed this device out: then the message waits on this machine, and the next `gochat send` of the profile signs in anew, if it\n" +
			"can, and sends it first.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.run(cmd.Context(), &f, args, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&s.to, "to", "", "a user, or the id of a conversation (required)")
	cmd.Flags().BoolVar(&s.lines, "lines", false, "every line of the input is a message")
	cmd.Flags().BoolVar(&s.json, "json", false, "print where each message was stored, as one JSON object a line")
	cmd.Flags().Uint64Var(&s.reply, "reply", 0, "seq of the message that this one replies to")
	cmd.Flags().StringSliceVar(&s.mentions, "mention", nil, "a user whom the message calls; all: everyone")
	cmd.Flags().DurationVar(&s.timeout, "timeout", 30*time.Second, "how long to wait for the server; not for the input")
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

// queued is a message of the input, on its way.
type queued struct {
	line int // of the input; 0: the only one
	r    *gochat.Receipt
	err  error // it wasn't put into the outbox
}

// maxQueued is how far reading the input gets ahead of the server.
const maxQueued = 1024

func (s *sending) run(ctx context.Context, f *clientFlags, args []string, in io.Reader, out, errs io.Writer) error {
	to, err := target(s.to)
	if err != nil {
		return err
	}
	text := strings.Join(args, " ")
	switch {
	case len(args) > 0 && s.lines:
		return usageError{errors.New("--lines reads the input: give no text beside it")}
	case len(args) == 0 && !s.lines: // before anything else: whoever writes it may take long
		raw, err := io.ReadAll(io.LimitReader(in, packet.HardMaxContent+2))
		if err != nil {
			return fmt.Errorf("reading the message: %w", err)
		}
		text = strings.TrimRight(string(raw), "\r\n")
	}
	signIn, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	p, store, err := f.part(signIn, "send", true)
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
	send := func(text string) (*gochat.Receipt, error) {
		content := gochat.Text(text)
		content.ReplyToSeq = s.reply
		for _, u := range s.mentions {
			if u == "all" {
				content.MentionAll = true
			} else {
				content.Mentions = append(content.Mentions, u)
			}
		}
		return client.Send(ctx, to, content)
	}
	all := make(chan queued, maxQueued)
	var reading error // once all is closed
	if s.lines {
		go func() { // ends with the input, or the process
			reading = s.read(in, send, all)
			close(all)
		}()
	} else {
		r, err := send(text)
		all <- queued{r: r, err: err}
		close(all)
	}
	refused := 0
	for q := range all {
		var ack gochat.Ack
		err := q.err
		if err == nil {
			ack, err = s.wait(ctx, q.r)
		}
		switch {
		case errors.Is(err, errSlow):
			return keptError{left: len(client.Outbox())}
		case errors.Is(err, gochat.ErrStopped):
			return keptError{len(client.Outbox()), p.ended(<-stopped)}
		case err != nil && !s.lines:
			return fmt.Errorf("not sent: %w", err)
		case err != nil:
			refused++
			fmt.Fprintf(errs, "line %d: not sent: %v\n", q.line, err)
		default:
			if err := s.print(out, ack); err != nil {
				return err
			}
		}
	}
	switch {
	case reading != nil:
		return fmt.Errorf("reading the messages: %w", reading)
	case refused > 0:
		return fmt.Errorf("%d messages were not sent", refused)
	}
	return nil
}

// errSlow: the server didn't answer in time, or the command was told to end.
var errSlow = errors.New("no answer in time")

// wait waits for one message, all those before it being answered.
func (s *sending) wait(ctx context.Context, r *gochat.Receipt) (gochat.Ack, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	ack, err := r.Wait(ctx)
	if err != nil && ctx.Err() != nil {
		err = errSlow
	}
	return ack, err
}

// read sends each line of in that isn't empty, and hands on what came of it.
func (s *sending) read(in io.Reader, send func(string) (*gochat.Receipt, error), all chan<- queued) error {
	sc := bufio.NewScanner(in)
	sc.Buffer(nil, packet.HardMaxContent+2)
	for n := 1; sc.Scan(); n++ {
		if line := strings.TrimRight(sc.Text(), "\r"); line != "" {
			r, err := send(line)
			all <- queued{n, r, err}
		}
	}
	return sc.Err()
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
