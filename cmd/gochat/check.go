package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gochat-im/gochat/node"
	"github.com/gochat-im/gochat/node/storage"
)

func checkCommand() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Audit the stored data of a server, or a backup",
		Long: "Reads every row and compares what must agree: no gaps in timelines, ids against messages, cursors within bounds,\n" +
			"both sides of membership, the bus log. Changes nothing. Ends with status 1 if something is wrong.\n" +
			"While a server runs on the data directory, a copy of its store as of now is audited, and removed. With the configuration of a\n" +
			"cluster's logic node the store that the nodes share is audited, as of now, while they run.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := flags.load(nil)
			if err != nil {
				return err
			}
			return check(cmd.Context(), cfg, cmd.OutOrStdout())
		},
	}
	flags.add(cmd)
	return cmd
}

// shownFindings is how many findings are printed one by one.
const shownFindings = 100

func check(ctx context.Context, cfg node.Config, out io.Writer) error {
	if storage.Shared(&cfg) {
		what := fmt.Sprintf("TiKV at %s, keyspace %d", strings.Join(cfg.Cluster.Store.TiKV.PD, ","), cfg.Cluster.Store.TiKV.Keyspace)
		return audit(out, what, func(report func(severity, text string)) (storage.CheckSum, error) {
			return storage.CheckShared(ctx, cfg, slog.New(slog.DiscardHandler), report)
		})
	}
	dir, err := filepath.Abs(cfg.Data)
	if err != nil {
		return fmt.Errorf("finding the data directory: %w", err)
	}
	cfg.Data = dir
	if running(cfg) {
		tmp, err := os.MkdirTemp(dir, ".check-*")
		if err != nil {
			return fmt.Errorf("making room for a copy of the store: %w", err)
		}
		defer os.RemoveAll(tmp)
		cfg.Data = filepath.Join(tmp, "copy")
		if err := ask(ctx, node.Config{Data: dir}, "POST", "/gc/backup", node.BackupRequest{Dir: cfg.Data}, nil); err != nil {
			return fmt.Errorf("copying the store of the server that runs: %w", err)
		}
	}
	return audit(out, dir, func(report func(severity, text string)) (storage.CheckSum, error) {
		return storage.Check(ctx, cfg, slog.New(slog.DiscardHandler), report)
	})
}

// audit prints what an audit finds, and how it ended.
func audit(out io.Writer, what string, run func(report func(severity, text string)) (storage.CheckSum, error)) error {
	findings := 0
	sum, err := run(func(_, text string) {
		findings++
		if findings <= shownFindings {
			fmt.Fprintln(out, text)
		}
	})
	if err != nil {
		return err
	}
	if findings > shownFindings {
		fmt.Fprintf(out, "and %d more\n", findings-shownFindings)
	}
	fmt.Fprintf(out, "%s: %d errors, %d warnings\n", what, sum.Errors, sum.Warnings)
	if sum.Errors > 0 {
		return errors.New("the data has errors")
	}
	return nil
}
