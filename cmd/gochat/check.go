package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/gochat-im/gochat/node"
)

func checkCommand() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Audit the stored data of a stopped server",
		Long: "Reads every row and compares what must agree: no gaps in timelines, ids against messages, cursors within bounds,\n" +
			"both sides of membership, the bus log. Changes nothing. Ends with status 1 if something is wrong.",
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
	dir, err := filepath.Abs(cfg.Data)
	if err != nil {
		return fmt.Errorf("finding the data directory: %w", err)
	}
	cfg.Data = dir
	findings := 0
	sum, err := node.Check(ctx, cfg, slog.New(slog.DiscardHandler), func(severity, text string) {
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
	fmt.Fprintf(out, "%s: %d errors, %d warnings\n", dir, sum.Errors, sum.Warnings)
	if sum.Errors > 0 {
		return errors.New("the data has errors")
	}
	return nil
}
