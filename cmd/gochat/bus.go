package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gochat-im/gochat/bus/rocketmq"
	"github.com/gochat-im/gochat/node/config"
)

func busCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "bus", Short: "Look after the bus of a cluster"}
	dlq := &cobra.Command{
		Use:   "dlq",
		Short: "Look after dead letters: events that a consumer failed at too often",
		Long: "Each speaks with RocketMQ itself, as the configuration names it (cluster.bus.rocketmq); no server has to run.\n" +
			"GROUP is a consumer of the bus: fanout.",
	}
	var flags configFlags
	var most int
	list := &cobra.Command{
		Use: "list GROUP", Short: "Show the dead letters that were not replayed", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return deadLetters(cmd, &flags, args[0], most, false)
		},
	}
	replay := &cobra.Command{
		Use: "replay GROUP", Short: "Give dead letters to their consumer once more", Args: cobra.ExactArgs(1),
		Long: "Gives dead letters to their consumer once more, the oldest first, with all their tries. Their messages are read anew:\n" +
			"what was recalled or removed since then stays so. Mend what they failed at before.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return deadLetters(cmd, &flags, args[0], most, true)
		},
	}
	for _, c := range []*cobra.Command{list, replay} {
		flags.add(c)
		c.Flags().IntVar(&most, "limit", 1000, "dead letters at most")
		dlq.AddCommand(c)
	}
	cmd.AddCommand(dlq)
	return cmd
}

// deadLetters shows the dead letters of group and replays them if it should, most at most.
func deadLetters(cmd *cobra.Command, flags *configFlags, group string, most int, replay bool) (err error) {
	if most < 1 {
		return usageError{fmt.Errorf("a limit of %d", most)}
	}
	cfg, err := flags.load(nil)
	if err != nil {
		return err
	}
	b := cfg.Cluster.Bus
	if b.Kind != config.BusRocketMQ {
		return usageError{errors.New("the bus is the embedded one, which has no dead letters: cluster.bus.kind is not rocketmq")}
	}
	secret := ""
	if b.RocketMQ.SecretFile != "" {
		if secret, err = config.ReadSecret(b.RocketMQ.SecretFile); err != nil {
			return fmt.Errorf("cluster.bus.rocketmq.secret_file: %w", err)
		}
	}
	letters, err := rocketmq.OpenLetters(cmd.Context(), rocketmq.LettersConfig{
		NameServers: b.RocketMQ.NameServers, Topic: b.RocketMQ.Topic, AccessKey: b.RocketMQ.AccessKey, SecretKey: secret, Group: group,
		Logger: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	defer func() {
		if e := letters.Close(); err == nil {
			err = e
		}
	}()
	n := 0
	err = letters.Each(cmd.Context(), func(l rocketmq.Letter) (bool, error) {
		if replay {
			if err := letters.Replay(cmd.Context(), l); err != nil {
				return false, err
			}
		}
		n++
		return n < most, printLetter(cmd.OutOrStdout(), l)
	})
	what := "not replayed"
	if replay {
		what = "replayed"
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%d dead letters of %s %s\n", n, group, what)
	return err
}

// printLetter writes one line, without what anybody wrote.
func printLetter(w io.Writer, l rocketmq.Letter) error {
	var what strings.Builder
	if l.Bad != nil {
		fmt.Fprintf(&what, " %v", l.Bad)
	}
	for i := range l.Events {
		ev := &l.Events[i]
		fmt.Fprintf(&what, " %s %d-%d", ev.Conversation, ev.FirstSeq, ev.LastSeq)
	}
	_, err := fmt.Fprintf(w, "%s %s/%d/%d%s\n", l.Died.Format(time.DateTime), l.Broker, l.Queue, l.Offset, what.String())
	return err
}
