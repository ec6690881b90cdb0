package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/gochat-im/gochat/services/account/pwhash"
)

const hashCommandName = "hash-passwords"

// hashCommand is what a server starts for its sign-ins.
func hashCommand() *cobra.Command {
	return &cobra.Command{
		Use:    hashCommandName,
		Short:  "Compute password hashes for the server that started this process",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := pwhash.StepBack(); err != nil {
				return err
			}
			return pwhash.Serve(os.Stdin, os.Stdout)
		},
	}
}
