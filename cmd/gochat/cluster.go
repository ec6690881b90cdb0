package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/services/account"
)

func clusterCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "cluster", Short: "Look after several servers that are one installation"}
	keys := &cobra.Command{
		Use:   "keys DIRECTORY",
		Short: "Make the keys that all nodes of a cluster share",
		Long: "Makes cluster.key, by which nodes know each other (cluster.key_file), and the keys that tokens are signed with\n" +
			"(cluster.signing_keys names the directory). Copy them to each node, readable by the server's user alone. Keys that\n" +
			"are there already stay as they are.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return fmt.Errorf("finding %s: %w", args[0], err)
			}
			if err := account.CreateKeys(dir); err != nil {
				return err
			}
			key := filepath.Join(dir, "cluster.key")
			if _, err := os.Lstat(key); err != nil {
				if err := config.CreateClusterKey(key); err != nil {
					return err
				}
			}
			if _, err := config.ReadClusterKeys(key); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "cluster:\n  key_file: %q\n  signing_keys: %q\n", key, dir)
			return nil
		},
	}
	cmd.AddCommand(keys)
	cmd.AddCommand(new(registryFlags).commands()...)
	return cmd
}
