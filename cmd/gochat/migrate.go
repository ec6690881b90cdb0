package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/gochat-im/gochat/msgstore/migration"
	"github.com/gochat-im/gochat/node/migrate"
)

func migrateCommand() *cobra.Command {
	var flags configFlags
	var from string
	var restart, otherKeys, back bool
	cmd := &cobra.Command{
		Use:   "migrate --from DATA_DIR --config NODE.YAML",
		Short: "Move a server's data directory into the store of a cluster",
		Long: "Copies everything that the data directory of a stopped server, or a backup, holds into the store of the cluster that the\n" +
			"configuration of one of its logic nodes names, compares every row, and marks the data directory, on which no server starts\n" +
			"from then on. The store has to be empty (cluster.store.tikv.keyspace), and no node may run. Nodes start on it when the copy\n" +
			"is complete, and clients fetch everything again. A run that was interrupted is gone on with by the same command.\n" +
			"A backup isn't marked: move one to see how long it takes.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from == "" {
				return usageError{errors.New("which data directory? Name it with --from")}
			}
			dir, err := filepath.Abs(from)
			if err != nil {
				return fmt.Errorf("finding %s: %w", from, err)
			}
			logger := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
			if back {
				return moveBack(cmd, dir, logger)
			}
			cfg, err := flags.load(nil)
			if err != nil {
				return err
			}
			return move(cmd.Context(), migrate.Config{Config: cfg, From: dir, Restart: restart, OtherKeys: otherKeys, Logger: logger}, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&flags.file, "config", "", "configuration file (YAML) of a logic node of the cluster")
	fs.StringVar(&from, "from", "", "data directory of a stopped server, or a backup")
	fs.BoolVar(&restart, "restart", false, "remove an incomplete copy from the cluster's store and begin anew")
	fs.BoolVar(&otherKeys, "other-keys", false, "the cluster has other keys than the data directory: everybody signs in again")
	fs.BoolVar(&back, "back", false, "have servers start on the data directory again, without what was stored in the cluster since")
	return cmd
}

func moveBack(cmd *cobra.Command, dir string, logger *slog.Logger) error {
	m, err := migrate.Back(cmd.Context(), dir, logger)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: servers start here again. Start no node on %s any more.\n", dir, m.Target)
	return err
}

// newEpochCommand gives the store of a cluster another epoch, as it needs after a restore.
func newEpochCommand() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:   "new-epoch --config NODE.YAML",
		Short: "Have clients fetch everything again, after the store of the cluster was restored",
		Long: "Gives the store in TiKV an epoch that it never had. Do this after TiKV was restored from a backup of its own, before a node is\n" +
			"started: seqs given out after that backup will be given to other messages, and clients must not take them for those they know.\n" +
			"No node may run.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := flags.load(nil)
			if err != nil {
				return err
			}
			epoch, err := migrate.NewEpoch(cmd.Context(), cfg, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn})))
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "store epoch %d\n", epoch)
			return err
		},
	}
	cmd.Flags().StringVar(&flags.file, "config", "", "configuration file (YAML) of a logic node of the cluster")
	return cmd
}

// move runs a migration and shows how far it is.
func move(ctx context.Context, c migrate.Config, out, shown io.Writer) error {
	c.Progress = new(migration.Progress)
	f, _ := shown.(*os.File)
	ended, watched := make(chan struct{}), make(chan struct{})
	begun := time.Now()
	go func() {
		defer close(watched)
		watch(c.Progress, shown, f != nil && term.IsTerminal(int(f.Fd())), ended)
	}()
	r, err := migrate.Run(ctx, c)
	close(ended)
	<-watched
	switch {
	case ctx.Err() != nil && err != nil:
		return fmt.Errorf("interrupted: the same command goes on where this one was: %w", err)
	case errors.Is(err, migration.ErrOtherCopy):
		return fmt.Errorf("%w: if nobody needs that copy, --restart removes it", err)
	case errors.Is(err, migration.ErrInUse):
		return fmt.Errorf("%w: give this installation a keyspace of its own (cluster.store.tikv.keyspace)", err)
	case errors.Is(err, migration.ErrDiffers):
		return fmt.Errorf("%w: did a server run on either of them meanwhile? --restart begins anew", err)
	case err != nil:
		return err
	case r.Earlier:
		_, err = fmt.Fprintf(out, "%s is in %s already: %d rows, %s, store epoch %d\n", c.From, r.Target, r.Rows, size(r.Bytes), r.Epoch)
	default:
		_, err = fmt.Fprintf(out, "%s is in %s: %d rows, %s, all compared, in %s; store epoch %d\n", c.From, r.Target, r.Rows, size(r.Bytes), time.Since(begun).Round(time.Second/10), r.Epoch)
	}
	if err == nil && !r.Backup {
		_, err = fmt.Fprintln(out, "No server starts on the data directory any more: start the cluster's nodes.")
	}
	return err
}

// Often enough to see that it goes on.
const (
	barEvery  = 250 * time.Millisecond
	lineEvery = 5 * time.Second
)

// watch shows how far a migration is until ended is closed: one line that changes on a terminal, else a line now and then.
func watch(p *migration.Progress, out io.Writer, terminal bool, ended <-chan struct{}) {
	every := lineEvery
	if terminal {
		every = barEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var m meter
	for {
		select {
		case <-ended:
			if terminal {
				fmt.Fprint(out, "\r\x1b[K")
			}
			return
		case now := <-tick.C:
			line := m.line(p.Phase(), p.Total(), p.Copied(), p.Verified(), now)
			if terminal {
				fmt.Fprint(out, "\r\x1b[K"+line)
			} else {
				fmt.Fprintln(out, line)
			}
		}
	}
}

// meter tells how fast a phase goes on.
type meter struct {
	phase migration.Phase
	since time.Time
	from  uint64 // bytes that were done then
}

// barWidth is that of the bar, in characters.
const barWidth = 24

// line says where a migration is, in a line of at most 100 characters.
func (m *meter) line(phase migration.Phase, total, copied, verified migration.Amount, now time.Time) string {
	done := copied
	switch phase {
	case migration.Preparing, migration.Complete:
		return phase.String()
	case migration.Counting:
		return fmt.Sprintf("%s %d rows, %s", phase, total.Rows, size(total.Bytes))
	case migration.Verifying:
		done = verified
	}
	if m.phase != phase {
		*m = meter{phase: phase, since: now, from: done.Bytes}
	}
	share := 1.0
	if total.Bytes > 0 {
		share = min(float64(done.Bytes)/float64(total.Bytes), 1)
	}
	bar := []byte("........................")
	for i := range int(share * barWidth) {
		bar[i] = '#'
	}
	s := fmt.Sprintf("%-9s [%s] %3.0f %%  %d rows, %s", phase, bar, share*100, done.Rows, size(done.Bytes))
	if took := now.Sub(m.since); took >= time.Second && done.Bytes > m.from {
		rate := float64(done.Bytes-m.from) / took.Seconds()
		left := time.Duration(float64(total.Bytes-min(done.Bytes, total.Bytes)) / rate * float64(time.Second))
		s += fmt.Sprintf(", %s/s, %s left", size(uint64(rate)), left.Round(time.Second))
	}
	return s
}

// size writes a number of bytes for people.
func size(n uint64) string {
	units := []string{"KiB", "MiB", "GiB", "TiB"}
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, u := float64(n)/1024, 0
	for f >= 1024 && u < len(units)-1 {
		f, u = f/1024, u+1
	}
	return fmt.Sprintf("%.1f %s", f, units[u])
}
