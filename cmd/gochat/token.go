package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/services/account"
)

func tokenCommand() *cobra.Command {
	var flags configFlags
	var device string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "token USER",
		Short: "Sign an access token with the key in the data directory",
		Long: "Signs an access token as the server itself does, for scripts and tests. Whoever holds it is USER until it expires\n" +
			"or everything of USER is revoked, so treat it as a password. It asks no server, so USER need not be an account: a system of your\n" +
			"own may name its users as it likes. One who has never registered can sign in, write and be in groups, but nobody can begin to\n" +
			"write to them; and a name that was deleted or banned is refused when the token is shown.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := flags.load(nil)
			if err != nil {
				return err
			}
			user := id.UserID(args[0])
			if !user.Valid() {
				return usageError{fmt.Errorf("user id %q: want 1 to %d bytes of UTF-8 without control characters", args[0], id.MaxUserID)}
			}
			keys, err := account.LoadKeys(cfg.Data)
			if err != nil {
				return fmt.Errorf("%w; the server makes the keys when it starts for the first time", err)
			}
			token, err := account.MintToken(keys, account.DefaultIssuer, user, id.DeviceID(device), time.Now(), ttl)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), token)
			return err
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&device, "device", "", "the only device that may use it (default any)")
	cmd.Flags().DurationVar(&ttl, "ttl", 15*time.Minute, "how long it holds")
	return cmd
}

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
			if cfg.Cluster.SigningKeys != "" {
				return fmt.Errorf("the keys in %s are those of all nodes, who must know the new ones before one of them signs with them: rotate a copy (docs/OPERATIONS.md, in two rounds)", cfg.Cluster.SigningKeys)
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
