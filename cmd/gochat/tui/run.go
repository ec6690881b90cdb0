package tui

import (
	"context"
	"errors"
	"fmt"

	tea "charm.land/bubbletea/v2"

	gochat "github.com/gochat-im/gochat/sdk/go"
)

// Run shows m until the person leaves, ctx ends, or the client can't go on; then it returns why.
// open makes the client, with a handler that Run gives; the caller closes it.
func Run(ctx context.Context, m *Model, open func(handler func(gochat.Event)) (*gochat.Client, error)) error {
	p := tea.NewProgram(m, tea.WithContext(ctx), tea.WithoutSignalHandler())
	client, err := open(func(e gochat.Event) { p.Send(Happened{e}) })
	if err != nil {
		return err
	}
	m.Use(client)
	_, err = p.Run()
	if ctx.Err() != nil || errors.Is(err, tea.ErrInterrupted) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("showing the screen: %w", err)
	}
	return m.Err()
}
