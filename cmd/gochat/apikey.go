package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gochat-im/gochat/node"
	"github.com/gochat-im/gochat/services/apikey"
)

func apikeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "apikey",
		Short: "Look after the keys with which your own back end uses the HTTP API",
		Long: "Each asks the server that runs on the data directory, over its administration socket. What a key is good for, its scopes:\n" +
			"  users   make users, see how they stand and whether they are online, ban them, sign them out\n" +
			"  tokens  sign access tokens for any user\n" +
			"  act     do as any user (X-User-ID) what that user may do: send, make groups, read\n" +
			"  system  do so as the service itself (X-User-ID: gochat:system), which may write to anybody and into any group\n" +
			"  import  bring in groups and messages of before, with their original times\n" +
			"  broadcast  tell everybody who is connected something",
	}
	var flags configFlags
	var in node.KeyRequest
	create := &cobra.Command{
		Use: "create NAME", Short: "Make a key and show it, this once", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := flags.load(nil)
			if err != nil {
				return err
			}
			in.Name = args[0]
			var k node.KeyAnswer
			if err := ask(cmd.Context(), cfg, "POST", "/gc/apikey/create", in, &k); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "key %s (%s), good for %s; it is not shown again:\n", k.ID, k.Name, strings.Join(k.Scopes, ", "))
			_, err = fmt.Fprintln(cmd.OutOrStdout(), k.Text)
			return err
		},
	}
	create.Flags().StringSliceVar(&in.Scopes, "scope", nil, "what it is good for, repeated or with commas: "+strings.Join(apikey.Scopes, ", "))
	list := &cobra.Command{
		Use: "list", Short: "Show the keys, not their texts", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return showKeys(cmd, &flags, "/gc/apikey/list", node.KeyRequest{})
		},
	}
	revoke := &cobra.Command{
		Use: "revoke ID", Short: "End a key, at once", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return showKeys(cmd, &flags, "/gc/apikey/revoke", node.KeyRequest{ID: args[0]})
		},
	}
	for _, c := range []*cobra.Command{create, list, revoke} {
		flags.add(c)
		cmd.AddCommand(c)
	}
	return cmd
}

// showKeys shows the keys that are left after a request.
func showKeys(cmd *cobra.Command, flags *configFlags, path string, in node.KeyRequest) error {
	cfg, err := flags.load(nil)
	if err != nil {
		return err
	}
	var ans node.KeysAnswer
	if err := ask(cmd.Context(), cfg, "POST", path, in, &ans); err != nil {
		return err
	}
	for _, k := range ans.Keys {
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s  %s  %-20s %s\n", k.ID, k.Created.Format(time.DateTime), k.Name, strings.Join(k.Scopes, ",")); err != nil {
			return err
		}
	}
	return nil
}
