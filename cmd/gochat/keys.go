package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/gochat-im/gochat/services/account"
)

func keysCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "keys", Short: "Look after the keys that tokens are signed with"}
	var flags configFlags
	rotate := &cobra.Command{
		Use:   "rotate",
		Short: "Make new keys, and keep the old ones for what they signed",
		Long: "The server signs with the new keys after its next start, and goes on accepting what the old ones signed: nobody is signed\n" +
			"out. When the longest-lived of those tokens have expired (accounts.refresh_token), remove the old files.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := flags.load(nil)
			if err != nil {
				return err
			}
			now := time.Now()
			old, err := account.RotateKeys(cfg.Data, now)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			fmt.Fprintln(out, "new keys are in place; restart the server to use them")
			for _, f := range old {
				fmt.Fprintf(out, "remove after %s: %s\n", now.Add(cfg.Accounts.RefreshToken).UTC().Format(time.DateOnly), f)
			}
			return nil
		},
	}
	flags.add(rotate)
	cmd.AddCommand(rotate)
	return cmd
}
