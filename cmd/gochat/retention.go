package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gochat-im/gochat/node"
)

// maxDays is as many as a duration holds.
const maxDays = 100_000

func retentionCommand(flags *configFlags) *cobra.Command {
	var days, messages uint
	var forever, byKind bool
	cmd := &cobra.Command{
		Use:   "retention CONVERSATION",
		Short: "Show, or set, how long the messages of one conversation are kept",
		Long: "What is set here holds in the place of what the configuration says for the kind of conversation (retention), also after a restart.\n" +
			"With --days and --messages together, a message goes when either lets it. Old messages begin to go at once (in a cluster with the next pass, within the hour), those that were\n" +
			"stored together as one; nothing brings them back. Without a flag nothing is changed.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := node.KeepRequest{Conversation: args[0], Default: byKind, Messages: uint64(messages)}
			sets := 0
			for _, name := range []string{"forever", "default"} {
				if cmd.Flags().Changed(name) {
					sets++
				}
			}
			limits := cmd.Flags().Changed("days") || cmd.Flags().Changed("messages")
			if limits {
				sets++
			}
			switch {
			case sets > 1:
				return usageError{errors.New("want one of --forever, --default, or --days and --messages")}
			case limits && days == 0 && messages == 0, days > maxDays:
				return usageError{fmt.Errorf("want 1 to %d days, or at least one message", maxDays)}
			}
			in.Set = limits || forever || byKind
			in.Age = time.Duration(days) * 24 * time.Hour
			cfg, err := flags.load(nil)
			if err != nil {
				return err
			}
			var ans node.KeepAnswer
			if err := ask(cmd.Context(), cfg, "POST", "/gc/retention", in, &ans); err != nil {
				return err
			}
			return showKeep(cmd.OutOrStdout(), &ans)
		},
	}
	flags.add(cmd)
	cmd.Flags().UintVar(&days, "days", 0, "keep messages for so many days")
	cmd.Flags().UintVar(&messages, "messages", 0, "keep the newest so many messages")
	cmd.Flags().BoolVar(&forever, "forever", false, "keep all messages")
	cmd.Flags().BoolVar(&byKind, "default", false, "keep messages as long as the configuration says for this kind of conversation")
	return cmd
}

func showKeep(out io.Writer, k *node.KeepAnswer) error {
	var parts []string
	if k.Age > 0 {
		if day := 24 * time.Hour; k.Age%day == 0 {
			parts = append(parts, fmt.Sprintf("for %d days", k.Age/day))
		} else {
			parts = append(parts, fmt.Sprintf("for %s", k.Age))
		}
	}
	if k.Messages > 0 {
		parts = append(parts, fmt.Sprintf("the newest %d", k.Messages))
	}
	if len(parts) == 0 {
		parts = append(parts, "for ever")
	}
	why := "as configured for the kind " + k.Kind
	if k.Own {
		why = "its own"
		if k.Since != nil {
			why += " since " + k.Since.Format(time.DateTime)
		}
	}
	held := "no messages"
	if k.FirstSeq <= k.LastSeq {
		held = fmt.Sprintf("messages %d to %d", k.FirstSeq, k.LastSeq)
	}
	_, err := fmt.Fprintf(out, "%s: kept %s (%s); holds %s\n", k.Conversation, strings.Join(parts, ", "), why, held)
	return err
}
