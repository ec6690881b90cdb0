package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

func chatCommand() *cobra.Command {
	var name, server, httpURL, dir, to string
	cmd := &cobra.Command{
		Use:   "chat",
		Short: "Talk, in this terminal",
		Long: "A line client. A profile that doesn't exist yet is registered under its name. Set GOCHAT_PASSWORD to choose its password, or to sign\n" +
			"in to an account that exists; otherwise one is made up and kept in the profile.\n\nLines from a pipe are sent as messages too: echo hello | gochat chat --profile alice --to bob",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := openProfile(dir, name, httpURL)
			if err != nil {
				return err
			}
			con, restore, err := openConsole(os.Stdin, os.Stdout)
			if err != nil {
				return err
			}
			defer restore()
			return chat(cmd.Context(), p, server, to, con)
		},
	}
	cmd.Flags().StringVar(&name, "profile", "", "who you are on this machine (required)")
	cmd.Flags().StringVar(&to, "to", "", "talk to this user right away")
	cmd.Flags().StringVar(&server, "server", "127.0.0.1:7070", "address of the binary protocol")
	cmd.Flags().StringVar(&httpURL, "http", "http://127.0.0.1:8080", "where to sign in")
	cmd.Flags().StringVar(&dir, "profiles", "", "directory of profiles (default: gochat in your configuration directory)")
	_ = cmd.MarkFlagRequired("profile")
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
			return "", errors.Join(sc.Err(), io.EOF)
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

// chat signs in and talks until the input ends, /quit or ctx.
func chat(ctx context.Context, p *profile, server, to string, con *console) error {
	if !p.signedIn() {
		registered, err := p.signUp(ctx, os.Getenv("GOCHAT_PASSWORD"))
		switch {
		case errors.Is(err, code.New(code.NameTaken)):
			return fmt.Errorf("%q is taken: choose another --profile, or set GOCHAT_PASSWORD to its password", p.cred.Name)
		case errors.Is(err, code.New(code.BadCredentials)):
			return fmt.Errorf("%q exists and GOCHAT_PASSWORD isn't its password", p.cred.Name)
		case errors.As(err, new(unreachable)):
			return fmt.Errorf("%w\nis the server running? `gochat serve` starts one", err)
		case err != nil:
			return err
		}
		if registered {
			fmt.Fprintf(con, "Welcome, %s. Your sign-in is kept in %s.\n", p.cred.Name, p.dir)
		}
	}
	store, err := gochat.OpenFileStore(filepath.Join(p.dir, "messages.log"))
	if errors.Is(err, gochat.ErrStoreInUse) {
		return fmt.Errorf("profile %s is open in another terminal", p.cred.Name)
	} else if err != nil {
		return err
	}
	t := newTalk(con, p.cred.Name)
	client, err := gochat.Open(gochat.Config{
		Address: server, Token: p.Token, Device: deviceID(p), Kind: wire.DeviceKind_DEVICE_KIND_DESKTOP, Client: "gochat-cli " + version,
		Store: store, Handler: t.handle, Backlog: 20,
	})
	if err != nil {
		return err
	}
	defer client.Close()
	t.client = client
	defer t.stop()
	if to != "" {
		t.turnTo(ctx, to)
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
