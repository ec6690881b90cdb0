package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/gochat-im/gochat/node"
	"github.com/gochat-im/gochat/node/config"
)

// configFlags are the flags that every command which reads the server's configuration has.
type configFlags struct {
	file string
	data string
}

func (f *configFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.file, "config", "", "configuration file (YAML); the command \"config print\" writes one")
	cmd.Flags().StringVar(&f.data, "data", "", "directory of everything the server stores (default ./data)")
}

// load reads defaults, file, environment and flags; set holds flags as dotted names.
func (f *configFlags) load(set map[string]any) (node.Config, error) {
	if set == nil {
		set = map[string]any{}
	}
	if f.data != "" {
		set["data"] = f.data
	}
	cfg, err := config.Load(f.file, os.Environ(), set)
	if err != nil {
		return cfg, usageError{err}
	}
	return cfg, nil
}

func configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Look at the configuration"}
	var flags configFlags
	show := &cobra.Command{
		Use:   "print",
		Short: "Print the configuration in force as a commented file",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := flags.load(nil)
			if err != nil {
				return err
			}
			return config.Print(cmd.OutOrStdout(), cfg)
		},
	}
	flags.add(show)
	cmd.AddCommand(show)
	return cmd
}
