// Command gochat is the whole of GoChat: server, terminal client and tools.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set when a release is built.
var version = "dev"

// Exit codes beside 0 and 1 (any error).
const (
	exitUsage = 2 // the command line or the configuration is wrong
)

// usageError marks errors that a different command line or configuration mends.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use:           "gochat",
		Short:         "GoChat, an instant-messaging server you run yourself",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(serveCommand(), chatCommand(), sendCommand(), tailCommand(), tokenCommand(), checkCommand(), backupCommand(), restoreCommand(), migrateCommand(), adminCommand(), keysCommand(), clusterCommand(), busCommand(), apikeyCommand(), configCommand(), versionCommand(), hashCommand())
	wrongArguments(root)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "gochat:", err)
		var usage usageError
		if errors.As(err, &usage) || strings.HasPrefix(err.Error(), "unknown command") {
			os.Exit(exitUsage)
		}
		if errors.As(err, new(keptError)) {
			os.Exit(exitKept)
		}
		os.Exit(1)
	}
}

// wrongArguments has every command under c say that wrong arguments are the command line's fault.
func wrongArguments(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageError{err}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		wrongArguments(sub)
	}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "gochat %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
