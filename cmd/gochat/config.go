package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gochat-im/gochat/node"
	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/router/settings"
	"github.com/gochat-im/gochat/services/words"
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

// settingsCommand changes settings of all nodes of a cluster at once.
func settingsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "settings",
		Short: "Show or change what holds for all nodes while they run",
		Long: "Settings that can be changed while nodes run may be given in etcd, for all nodes at once: they hold, within a second, in place of\n" +
			"what the nodes' own configurations say, until they are removed again. With --config, values are checked together with that\n" +
			"configuration, otherwise with the defaults.",
	}
	var at registryFlags
	at.add(cmd)
	get := &cobra.Command{
		Use:   "get [KEY]",
		Short: "Show one, or all that there may be",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return at.shared(cmd.Context(), func(s *shared) error {
				if len(args) == 0 {
					return s.show(cmd.OutOrStdout())
				}
				return s.showOne(cmd.OutOrStdout(), args[0])
			})
		},
	}
	var file string
	set := &cobra.Command{
		Use:   "set KEY VALUE",
		Short: "Set one for all nodes",
		Long: "KEY is the name in the configuration file, with dots, as limits.sends_per_second, or words/NAME for a list of words, one a line (words.action\n" +
			"says what becomes of messages with one); --file reads the value from a file. What nodes would refuse is not written.",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 2) == (file != "") {
				return usageError{errors.New("want either a value or --file")}
			}
			if file != "" {
				text, err := os.ReadFile(file)
				if err != nil {
					return err
				}
				value := string(text)
				if !strings.HasPrefix(args[0], config.WordsPrefix) {
					value = strings.TrimSpace(value)
				}
				args = append(args, value)
			}
			return at.shared(cmd.Context(), func(s *shared) error {
				return s.set(cmd.Context(), cmd.OutOrStdout(), args[0], args[1])
			})
		},
	}
	set.Flags().StringVar(&file, "file", "", "file that holds the value")
	unset := &cobra.Command{
		Use:   "unset KEY",
		Short: "Remove one, so that each node's own configuration holds again",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return at.shared(cmd.Context(), func(s *shared) error {
				return s.unset(cmd.Context(), cmd.OutOrStdout(), args[0])
			})
		},
	}
	cmd.AddCommand(get, set, unset)
	return cmd
}

// shared is what a command knows of the settings of all nodes.
type shared struct {
	client *clientv3.Client
	prefix string
	whose  string // what the settings are above of
	own    config.Config
	over   *config.Overlay
	lists  *words.Lists
	values map[string]string
	rev    map[string]int64 // of the keys that there are
	bad    map[string]error // that nodes refuse
}

// shared reads the settings and gives them to do.
func (f *registryFlags) shared(ctx context.Context, do func(*shared) error) error {
	ctx, cancel := context.WithTimeout(ctx, registryWait)
	defer cancel()
	s := &shared{whose: "by default", own: config.Default(), values: map[string]string{}, rev: map[string]int64{}, bad: map[string]error{}}
	if f.config.file != "" {
		var err error
		if s.own, err = f.config.load(nil); err != nil {
			return err
		}
		s.whose = "in " + f.config.file
		if len(s.own.Cluster.Nodes) > 0 && len(f.etcd.Endpoints) == 0 {
			return usageError{errors.New("this cluster's nodes are a list in the configuration (cluster.nodes), and there is no etcd that settings could lie in: change each node's own configuration, and reload it there with gochat admin reload")}
		}
	}
	var err error
	if s.client, s.prefix, err = f.dial(ctx); err != nil {
		return err
	}
	defer s.client.Close()
	at := settings.Key(s.prefix, "")
	r, err := s.client.Get(ctx, at, clientv3.WithPrefix())
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("etcd doesn't answer within %s at %s: %w", registryWait, strings.Join(s.client.Endpoints(), ", "), err)
	} else if err != nil {
		return fmt.Errorf("reading the settings in etcd: %w", err)
	}
	s.over = config.NewOverlay(s.own)
	for _, kv := range r.Kvs {
		name := strings.TrimPrefix(string(kv.Key), at)
		s.values[name], s.rev[name] = string(kv.Value), kv.ModRevision
		s.bad[name] = s.try(name, string(kv.Value))
	}
	refused := s.over.Refused() // some were taken after all, once others were known
	for name, err := range s.bad {
		if err == nil || !isWords(name) && !slices.Contains(refused, name) {
			delete(s.bad, name)
		}
	}
	return do(s)
}

func isWords(name string) bool { return strings.HasPrefix(name, config.WordsPrefix) }

// try checks a setting as nodes do, with those that there are.
func (s *shared) try(name, value string) error {
	list, ok := strings.CutPrefix(name, config.WordsPrefix)
	if !ok {
		return s.over.Set(name, value)
	}
	if list == "" {
		return errors.New("a list of words needs a name: words/NAME")
	}
	lists, err := s.lists.With(list, value)
	if err == nil {
		s.lists = lists
	}
	return err
}

// brief is a value in few characters.
func brief(name, value string) string {
	if isWords(name) {
		n, _ := words.Check(value)
		return fmt.Sprintf("%d words", n)
	}
	return fmt.Sprintf("%.40q", value)
}

func (s *shared) show(out io.Writer) error {
	fmt.Fprintf(out, "%d settings in etcd below %s\n", len(s.values), settings.Key(s.prefix, ""))
	own := "BY DEFAULT"
	if file, ok := strings.CutPrefix(s.whose, "in "); ok {
		own = "IN " + file
	}
	rows := [][]any{{"KEY", own, "IN ETCD", ""}}
	for _, name := range config.Shared() {
		value, state := "-", ""
		if v, ok := s.values[name]; ok {
			value, state = brief(name, v), s.state(name)
		}
		own, _ := s.own.Value(name)
		rows = append(rows, []any{name, own, value, state})
	}
	for _, name := range slices.Sorted(maps.Keys(s.values)) {
		if !slices.Contains(config.Shared(), name) {
			rows = append(rows, []any{name, "-", brief(name, s.values[name]), s.state(name)})
		}
	}
	return table(out, rows)
}

func (s *shared) state(name string) string {
	if err := s.bad[name]; err != nil {
		return "refused: " + strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return ""
}

func (s *shared) showOne(out io.Writer, name string) error {
	value, there := s.values[name]
	own, known := s.own.Value(name)
	if !there && isWords(name) {
		return usageError{fmt.Errorf("there is no list %s", name)}
	}
	if !there {
		if err := config.MayShare(name); err != nil {
			return usageError{err}
		}
		_, err := fmt.Fprintf(out, "%s: %s %s; nothing in etcd\n", name, own, s.whose)
		return err
	}
	fmt.Fprintf(out, "%s: %s in etcd, since revision %d", name, value, s.rev[name])
	if known {
		fmt.Fprintf(out, "; %s %s", own, s.whose)
	}
	if state := s.state(name); state != "" {
		fmt.Fprintf(out, "; %s", state)
	}
	_, err := fmt.Fprintln(out)
	return err
}

func (s *shared) set(ctx context.Context, out io.Writer, name, value string) error {
	if err := s.try(name, value); err != nil {
		return usageError{fmt.Errorf("nothing was written, for nodes would refuse it: %w", err)}
	}
	if err := s.write(ctx, name, clientv3.OpPut(settings.Key(s.prefix, name), value)); err != nil {
		return err
	}
	own, known := s.own.Value(name)
	if !known {
		_, err := fmt.Fprintf(out, "%s: %s on all nodes\n", name, brief(name, value))
		return err
	}
	_, err := fmt.Fprintf(out, "%s: %s on all nodes (%s %s)\n", name, value, own, s.whose)
	return err
}

func (s *shared) unset(ctx context.Context, out io.Writer, name string) error {
	if _, ok := s.values[name]; !ok {
		return usageError{fmt.Errorf("%q isn't set in etcd", name)}
	}
	if !isWords(name) { // lists are beside the settings, no other depends on them
		if err := s.over.Unset(name); err != nil {
			return usageError{fmt.Errorf("nothing was written, for nodes would refuse it: %w", err)}
		}
	}
	if err := s.write(ctx, name, clientv3.OpDelete(settings.Key(s.prefix, name))); err != nil {
		return err
	}
	own, known := s.own.Value(name)
	if !known {
		_, err := fmt.Fprintf(out, "%s: removed\n", name)
		return err
	}
	_, err := fmt.Fprintf(out, "%s: each node's own value again (%s %s)\n", name, own, s.whose)
	return err
}

// write does op, unless the setting has changed since it was read.
func (s *shared) write(ctx context.Context, name string, op clientv3.Op) error {
	ctx, cancel := context.WithTimeout(ctx, registryWait)
	defer cancel()
	t, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(settings.Key(s.prefix, name)), "=", s.rev[name])).Then(op).Commit()
	switch {
	case err != nil:
		return fmt.Errorf("writing the setting %s to etcd: %w", name, err)
	case !t.Succeeded:
		return fmt.Errorf("%s was changed by somebody else meanwhile: look at it, and try again", name)
	}
	return nil
}
