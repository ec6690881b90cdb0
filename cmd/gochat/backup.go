package main

import (
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/gochat-im/gochat/node"
	"github.com/gochat-im/gochat/node/storage"
)

func backupCommand() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:   "backup DIR",
		Short: "Copy everything a running server has stored into a new directory",
		Long: "Asks the server that runs on this data directory for a copy of its store and its keys, as of now: whatever it has acked\n" +
			"is in it, and clients are served meanwhile. DIR must not exist. On the same file system the copy shares its files with\n" +
			"the store, so copy DIR to another machine. It holds the server's keys: guard it as you guard the data.\n" +
			"`gochat check --data DIR` audits it, `gochat restore DIR` makes a data directory of it. What a cluster keeps in TiKV is backed up\n" +
			"by TiKV's own means.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := flags.load(nil)
			if err != nil {
				return err
			}
			if storage.Shared(&cfg) {
				return sharedBackup("back it up")
			}
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return fmt.Errorf("finding the backup directory: %w", err)
			}
			var done node.BackupAnswer
			if err := ask(cmd.Context(), cfg, "POST", "/gc/backup", node.BackupRequest{Dir: dir}, &done); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d bytes in %d ms, store epoch %d\n", dir, done.Bytes, done.Millis, done.Epoch)
			return err
		},
	}
	flags.add(cmd)
	return cmd
}

// sharedBackup says that the store of a cluster isn't in a data directory.
func sharedBackup(do string) error {
	return usageError{fmt.Errorf("this node's messages lie in TiKV, which has means of its own: %s with BR, see the operations manual", do)}
}

func restoreCommand() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:   "restore DIR",
		Short: "Make a data directory of a backup",
		Long: "Copies the backup in DIR to the data directory, which must hold no store yet, and gives the store a new epoch, so that\n" +
			"clients fetch everything again. What was sent after the backup is gone from the server, and what was revoked after it\n" +
			"(devices, passwords, bans) isn't any more: see the operations manual. DIR stays as it is.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := flags.load(nil)
			if err != nil {
				return err
			}
			if storage.Shared(&cfg) {
				return sharedBackup("restore it, and then run `gochat cluster new-epoch`")
			}
			info, err := storage.Restore(cmd.Context(), args[0], cfg.Data, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn})))
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: restored the backup of %s, store epoch %d\n", cfg.Data, info.Created.Format("2006-01-02 15:04:05 MST"), info.Epoch)
			return err
		},
	}
	flags.add(cmd)
	return cmd
}
