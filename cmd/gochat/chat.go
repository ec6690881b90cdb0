package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/gochat-im/gochat/cmd/gochat/tui"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// backlog is how many messages of a conversation that is new to this device come by themselves.
const backlog = 20

func chatCommand() *cobra.Command {
	var f clientFlags
	var to, room string
	var plain bool
	cmd := &cobra.Command{
		Use:   "chat",
		Short: "Talk, in this terminal",
		Long: "A client for the terminal; /help and Tab show what it can do. A profile that doesn't exist yet is registered under its name. Set\n" +
			"GOCHAT_PASSWORD to choose its password, or to sign in to an account that exists; otherwise one is made up and kept in the profile.\n\n" +
			"Where input or output is no terminal, or with --plain, it goes line by line: echo hello | gochat chat --profile alice --to bob\n" +
			"For scripts there are `gochat send` and `gochat tail`.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := f.profile()
			if err != nil {
				return err
			}
			if to != "" && room != "" {
				return usageError{errors.New("--to and --room: one of them")}
			}
			onScreen := !plain && room == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd()))
			if onScreen {
				if err := p.signIn(cmd.Context(), os.Stdout); err != nil {
					return err
				}
				return talkOnScreen(cmd.Context(), p, f.server, to)
			}
			con, restore, err := openConsole(os.Stdin, os.Stdout)
			if err != nil {
				return err
			}
			defer restore()
			if err := p.signIn(cmd.Context(), con); err != nil {
				return err
			}
			return talkInLines(cmd.Context(), p, f.server, to, room, con)
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&to, "to", "", "talk to this user right away")
	cmd.Flags().StringVar(&room, "room", "", "enter this room, line by line; it is made if there is none and you may")
	cmd.Flags().BoolVar(&plain, "plain", false, "line by line, also on a terminal")
	return cmd
}

// console is where lines come from and go to. On a terminal what others say appears
// above the line that is being typed.
type console struct {
	io.Writer
	read        func() (string, error)
	prompt      func(string)
	interactive bool
}

func openConsole(in, out *os.File) (*console, func(), error) {
	if !term.IsTerminal(int(in.Fd())) || !term.IsTerminal(int(out.Fd())) {
		sc := bufio.NewScanner(in)
		sc.Buffer(nil, 64<<10)
		read := func() (string, error) {
			if sc.Scan() {
				return sc.Text(), nil
			}
			if err := sc.Err(); err != nil { // a line that is too long above all: what follows it isn't read
				return "", fmt.Errorf("reading the input: %w", err)
			}
			return "", io.EOF
		}
		return &console{Writer: out, read: read, prompt: func(string) {}}, func() {}, nil
	}
	old, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, nil, fmt.Errorf("preparing the terminal: %w", err)
	}
	t := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{in, out}, "> ")
	if w, h, err := term.GetSize(int(out.Fd())); err == nil && w > 0 {
		_ = t.SetSize(w, h)
	}
	c := &console{Writer: t, read: t.ReadLine, prompt: func(p string) { t.SetPrompt(p) }, interactive: true}
	return c, func() { _ = term.Restore(int(in.Fd()), old) }, nil
}

// talkInLines talks until the input ends, /quit or ctx.
func talkInLines(ctx context.Context, p *profile, server, to, room string, con *console) error {
	t := newTalk(con, p.userID())
	client, err := p.open(server, gochat.Config{Handler: t.handle, Backlog: backlog})
	if err != nil {
		return err
	}
	defer client.Close()
	t.client = client
	defer t.stop()
	if to != "" {
		t.turnTo(to)
	} else if room != "" {
		if err := t.enter(ctx, room); err != nil {
			return err
		}
	} else if con.interactive {
		fmt.Fprintln(con, "Type /to NAME to talk to somebody, /help for more.")
	}
	lines := make(chan string)
	ended := make(chan error, 1)
	go func() { // ends with the process's input; a terminal's read can't be interrupted
		for {
			line, err := con.read()
			if err != nil {
				ended <- err
				return
			}
			lines <- line
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-t.stopped:
			return err
		case err := <-ended:
			if !errors.Is(err, io.EOF) {
				return err
			}
			return t.drain(ctx)
		case line := <-lines:
			if quit := t.line(ctx, strings.TrimRight(line, "\r\n")); quit {
				return nil
			}
		}
	}
}

// talkOnScreen shows the whole screen until the person leaves or ctx ends.
func talkOnScreen(ctx context.Context, p *profile, server, to string) error {
	screen := tui.New(ctx, p.userID())
	if to != "" {
		if err := screen.TurnTo(to); err != nil {
			return usageError{fmt.Errorf("--to: %w", err)}
		}
	}
	var client *gochat.Client
	err := tui.Run(ctx, screen, func(handler func(gochat.Event)) (c *gochat.Client, err error) {
		client, err = p.open(server, gochat.Config{Handler: handler, Backlog: backlog})
		return client, err
	})
	if client != nil {
		if n := len(client.Outbox()); n > 0 {
			fmt.Fprintf(os.Stderr, "%d messages wait to be sent next time.\n", n)
		}
		err = errors.Join(err, client.Close())
	}
	return err
}
