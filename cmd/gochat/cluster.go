package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router"
	"github.com/gochat-im/gochat/router/etcd"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/router/nodes/etcdnodes"
	"github.com/gochat-im/gochat/services/account"
)

func clusterCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "cluster", Short: "Look after several servers that are one installation"}
	var from string
	keys := &cobra.Command{
		Use:   "keys DIRECTORY",
		Short: "Make the keys that all nodes of a cluster share",
		Long: "Makes cluster.key, by which nodes know each other (cluster.key_file), and the keys that tokens are signed with\n" +
			"(cluster.signing_keys names the directory). Copy them to each node, readable by the server's user alone. Keys that\n" +
			"are there already stay as they are. With --from, the keys of tokens are those of a data directory that is moved into the\n" +
			"cluster: whoever was signed in stays so.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return fmt.Errorf("finding %s: %w", args[0], err)
			}
			if from != "" {
				if err := account.ImportKeys(filepath.Join(from, "keys"), dir); err != nil {
					return err
				}
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
	keys.Flags().StringVar(&from, "from", "", "data directory of a server whose keys the cluster goes on with")
	cmd.AddCommand(keys, newEpochCommand(), settingsCommand())
	cmd.AddCommand(new(registryFlags).commands()...)
	return cmd
}

// registryWait is how long a command waits for etcd.
const registryWait = 10 * time.Second

// registryFlags say where the nodes of a cluster are registered: as in the configuration, or, on
// a machine that has none, by themselves.
type registryFlags struct {
	config configFlags
	etcd   config.Etcd
	here   config.Config // that config named, once it was read
}

func (f *registryFlags) add(cmd *cobra.Command) {
	fs := cmd.PersistentFlags()
	fs.StringVar(&f.config.file, "config", "", "configuration file (YAML) of a node; its cluster.etcd says where etcd is")
	fs.StringSliceVar(&f.etcd.Endpoints, "etcd", nil, "URLs of etcd, with commas between, instead of those of a configuration")
	fs.StringVar(&f.etcd.Prefix, "etcd-prefix", etcdnodes.DefaultPrefix, "with --etcd: what all keys of the installation begin with")
	fs.StringVar(&f.etcd.User, "etcd-user", "", "with --etcd: whom to sign in as")
	fs.StringVar(&f.etcd.PasswordFile, "etcd-password-file", "", "with --etcd: file with the user's password, readable by you alone")
	fs.StringVar(&f.etcd.TLS.CAFile, "etcd-ca", "", "with --etcd: PEM file, who signs the certificate of etcd")
	fs.StringVar(&f.etcd.TLS.CertFile, "etcd-cert", "", "with --etcd: PEM file, our certificate")
	fs.StringVar(&f.etcd.TLS.KeyFile, "etcd-key", "", "with --etcd: PEM file, its private key")
}

// dial returns a client, and the installation's prefix.
func (f *registryFlags) dial(ctx context.Context) (*clientv3.Client, string, error) {
	at := f.etcd
	if len(at.Endpoints) == 0 {
		cfg, err := f.config.load(nil)
		if err != nil {
			return nil, "", err
		}
		f.here, at = cfg, cfg.Cluster.Etcd
		switch {
		case len(cfg.Cluster.Nodes) > 0:
			return nil, "", usageError{errors.New("this cluster's nodes are a list in the configuration (cluster.nodes): there is no etcd to ask")}
		case len(at.Endpoints) == 0:
			return nil, "", usageError{errors.New("where is etcd? Name it with --etcd http://HOST:2379, or a node's configuration with --config")}
		}
	}
	c := etcd.Config{Endpoints: at.Endpoints, User: at.User, TLS: etcd.TLS(at.TLS)}
	if at.PasswordFile != "" {
		secret, err := config.ReadSecret(at.PasswordFile)
		if err != nil {
			return nil, "", err
		}
		c.Password = secret
	}
	client, err := etcd.Dial(ctx, c)
	if err != nil {
		return nil, "", usageError{err}
	}
	return client, at.Prefix, nil
}

// cluster is what a command knows of one.
type cluster struct {
	client *clientv3.Client
	prefix string
	nodes  *etcdnodes.Source
	snap   *router.Snapshot
	here   config.Config // that the command was given; none: the zero one
}

// ask reads which nodes there are and gives them to show.
func (f *registryFlags) ask(ctx context.Context, show func(*cluster) error) error {
	ctx, cancel := context.WithTimeout(ctx, registryWait)
	defer cancel()
	client, prefix, err := f.dial(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	src, err := etcdnodes.Open(ctx, etcdnodes.Config{Client: client, Prefix: prefix})
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("etcd doesn't answer within %s at %s: %w", registryWait, strings.Join(client.Endpoints(), ", "), err)
	} else if err != nil {
		return err
	}
	defer src.Close(ctx)
	r, err := router.New(router.Config{Source: src})
	if err != nil {
		return err
	}
	defer r.Close()
	return show(&cluster{client: client, prefix: prefix, nodes: src, snap: r.Snapshot(), here: f.here})
}

func (f *registryFlags) commands() []*cobra.Command {
	var asJSON bool
	status := &cobra.Command{
		Use:   "status",
		Short: "Show the nodes that there are",
		Long: "Shows each node that is registered in etcd: what it does, its number in ids, where the other nodes reach it, and how many of the\n" +
			"slots of conversations and users it owns. A node that died is gone after five seconds. LEVEL is the highest feature level that a node can read;\n" +
			"the one in force is what all of them write.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.ask(cmd.Context(), func(c *cluster) error {
				if asJSON {
					return c.writeStatus(cmd.OutOrStdout())
				}
				return c.showStatus(cmd.OutOrStdout(), time.Now())
			})
		},
	}
	status.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")

	var slot int
	var conversation, user string
	ring := &cobra.Command{
		Use:   "ring",
		Short: "Show who owns which conversations and users",
		Long: "Shows how many of the slots each logic node owns, or, of one slot, conversation or user, by whom it is owned. Slots follow from the\n" +
			"nodes and their weights; a node that joins takes its share from all others, and nothing else moves.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var of id.Slot
			what, one := "", true
			switch {
			case cmd.Flags().Changed("slot"):
				if slot < 0 || slot >= id.SlotCount {
					return usageError{fmt.Errorf("--slot %d: want 0 to %d", slot, id.SlotCount-1)}
				}
				of, what = id.Slot(slot), fmt.Sprintf("slot %d", slot)
			case conversation != "":
				conv, err := id.ParseConversation(conversation)
				if err != nil {
					return usageError{fmt.Errorf("--conversation: %w", err)}
				}
				of, what = conv.Slot(), fmt.Sprintf("conversation %s, slot %d", conv, conv.Slot())
			case user != "":
				u := id.UserID(user)
				if !u.Valid() {
					return usageError{fmt.Errorf("--user %q is no name of a user", user)}
				}
				of, what = u.Slot(), fmt.Sprintf("user %s, slot %d", u, u.Slot())
			default:
				one = false
			}
			return f.ask(cmd.Context(), func(c *cluster) error {
				if one {
					return c.showOwner(cmd.OutOrStdout(), what, of)
				}
				return c.showRing(cmd.OutOrStdout())
			})
		},
	}
	ring.Flags().IntVar(&slot, "slot", 0, "who owns this slot")
	ring.Flags().StringVar(&conversation, "conversation", "", "who owns this conversation, 32 hexadecimal digits")
	ring.Flags().StringVar(&user, "user", "", "who owns this user")
	ring.MarkFlagsMutuallyExclusive("slot", "conversation", "user")

	var undo bool
	drain := &cobra.Command{
		Use:   "drain NODE",
		Short: "Have a node hand over what it has, before it is stopped",
		Long: "The node's slots go to the others at once, its clients are asked to connect elsewhere, and it leaves the bus to others. It keeps running, with\n" +
			"nothing to do, until it is stopped, or told to stay with --undo; started again it is a node like others. Given the configuration of an\n" +
			"edge that runs on this machine, it says how many connections are left; asked again, how many by then.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.ask(cmd.Context(), func(c *cluster) error {
				return c.drain(cmd.Context(), cmd.OutOrStdout(), args[0], !undo)
			})
		},
	}
	drain.Flags().BoolVar(&undo, "undo", false, "have it stay after all")
	all := []*cobra.Command{status, ring, drain, f.levelCommand()}
	for _, c := range all {
		f.add(c)
	}
	return all
}

// raiseWait is how long a raise of the feature level waits, which takes a lease at least.
const raiseWait = 30 * time.Second

func (f *registryFlags) levelCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "level",
		Short: "Show the feature level, or raise it after an upgrade",
		Long: "Each release can read rows and messages up to a feature level, and writes none that are beyond the level in force, which is recorded in\n" +
			"etcd. When all nodes are of a new release raise it: what is new is used from then on, and nodes of older releases don't start any more.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.ask(cmd.Context(), func(c *cluster) error { return c.showLevel(cmd.OutOrStdout()) })
		},
	}
	var gone []string
	raise := &cobra.Command{
		Use:   "raise",
		Short: "Raise the feature level to the highest that all nodes can read",
		Long: "There is no way back: from then on nodes of releases that can't read the level don't start. It is refused while there is a node that can't, or may be:\n" +
			"one that wasn't stopped in good order may run on without etcd for an hour. If you know that it ended, name it with --gone; if it\n" +
			"lives all the same, it ends when it reaches etcd. It takes five seconds, in which every node that lives is heard of.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.ask(cmd.Context(), func(c *cluster) error { return c.raiseLevel(cmd.Context(), cmd.OutOrStdout(), gone) })
		},
	}
	raise.Flags().StringSliceVar(&gone, "gone", nil, "nodes, with commas between, of which you know that they ended, although etcd can't know it yet")
	cmd.AddCommand(raise)
	return cmd
}

// table writes rows of cells in columns.
func table(out io.Writer, rows [][]any) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		for i, cell := range r {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, cell)
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (c *cluster) showStatus(out io.Writer, now time.Time) error {
	v := c.snap.View()
	fmt.Fprintf(out, "%d nodes, feature level %d, revision %d\n", len(v.Nodes()), c.nodes.Level(), v.Revision())
	rows := [][]any{{"NODE", "ROLES", "WORKER", "RPC", "ZONE", "WEIGHT", "LEVEL", "SLOTS", "AGE", "STATE"}}
	for _, n := range v.Nodes() {
		slots, state, age := "-", "up", "-"
		if n.Roles.Has(nodes.Logic) {
			slots = fmt.Sprint(c.snap.Owned(n))
		}
		if n.Draining {
			state = "draining"
		}
		if n.Started > 0 {
			age = max(now.Sub(time.UnixMilli(n.Started)), 0).Round(time.Second).String()
		}
		rows = append(rows, []any{n.ID, n.Roles, n.Worker, orDash(n.RPC), orDash(n.Zone), n.Weight, n.Level, slots, age, state})
	}
	if len(v.Nodes()) == 0 {
		_, err := fmt.Fprintf(out, "no node is registered below %s\n", c.prefix)
		return err
	}
	return table(out, rows)
}

func (c *cluster) writeStatus(out io.Writer) error {
	e := json.NewEncoder(out)
	for _, n := range c.snap.View().Nodes() {
		if err := e.Encode(struct {
			*nodes.Node
			InForce uint32 `json:"level_in_force"`
			Slots   int    `json:"slots"`
		}{n, c.nodes.Level(), c.snap.Owned(n)}); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) showLevel(out io.Writer) error {
	v, level := c.snap.View(), c.nodes.Level()
	fmt.Fprintf(out, "feature level %d is in force\n", level)
	older := c.older(level)
	var err error
	switch {
	case len(v.Nodes()) == 0:
		_, err = fmt.Fprintf(out, "no node is registered below %s\n", c.prefix)
	case len(older) == 0:
		_, err = fmt.Fprintf(out, "all nodes can read level %d: \"gochat cluster level raise\" puts it in force\n", v.Level())
	case len(older) < len(v.Nodes()):
		_, err = fmt.Fprintf(out, "some nodes can read more; these can't yet: %s\n", strings.Join(older, ", "))
	default:
		_, err = fmt.Fprintln(out, "no node can read more")
	}
	return err
}

// older returns the registered nodes that can't read more than a level.
func (c *cluster) older(level uint32) (names []string) {
	for _, n := range c.snap.View().Nodes() {
		if n.Level <= level {
			names = append(names, n.ID)
		}
	}
	return names
}

func (c *cluster) raiseLevel(ctx context.Context, out io.Writer, gone []string) error {
	for _, name := range gone {
		if !nodes.ValidID(name) {
			return usageError{fmt.Errorf("--gone %q is no name of a node", name)}
		}
		if c.snap.View().ByID(name) != nil {
			return usageError{fmt.Errorf("--gone %s: the node is there", name)}
		}
	}
	// What is plain to see needs no waiting.
	level := c.nodes.Level()
	switch older := c.older(level); {
	case len(older) == 0:
	case len(older) < len(c.snap.View().Nodes()):
		return fmt.Errorf("feature level %d stays in force: these nodes can't read more: %s", level, strings.Join(older, ", "))
	default:
		_, err := fmt.Fprintf(out, "feature level %d is in force, and no node can read more\n", level)
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, raiseWait)
	defer cancel()
	from, to, err := c.nodes.Raise(ctx, gone...)
	if errors.Is(err, etcdnodes.ErrBehind) {
		return fmt.Errorf("%w (feature level %d is in force)", err, from)
	} else if err != nil {
		return err
	}
	if from == to {
		_, err = fmt.Fprintf(out, "feature level %d is in force, and no node can read more\n", to)
		return err
	}
	_, err = fmt.Fprintf(out, "feature level %d is in force; it was %d\n", to, from)
	return err
}

func (c *cluster) showRing(out io.Writer) error {
	rows := [][]any{{"NODE", "WEIGHT", "SLOTS", "SHARE", "STATE"}}
	for _, n := range c.snap.View().With(nodes.Logic) {
		owned, state := c.snap.Owned(n), "up"
		if n.Draining {
			state = "draining"
		}
		rows = append(rows, []any{n.ID, n.Weight, owned, fmt.Sprintf("%.1f %%", float64(owned)*100/id.SlotCount), state})
	}
	if len(rows) == 1 {
		return errors.New("there is no logic node: nobody owns anything")
	}
	return table(out, rows)
}

func (c *cluster) showOwner(out io.Writer, what string, slot id.Slot) error {
	n := c.snap.Owner(slot)
	if n == nil {
		return errors.New("there is no logic node: nobody owns anything")
	}
	_, err := fmt.Fprintf(out, "%s: %s (%s)\n", what, n.ID, orDash(n.RPC))
	return err
}

func (c *cluster) drain(ctx context.Context, out io.Writer, name string, on bool) error {
	n := c.snap.View().ByID(name)
	if n == nil {
		var there []string
		for _, n := range c.snap.View().Nodes() {
			there = append(there, n.ID)
		}
		return usageError{fmt.Errorf("there is no node %q; there are: %s", name, orDash(strings.Join(there, ", ")))}
	}
	if on && !n.Draining && n.Roles.Has(nodes.Logic) && c.snap.Owned(n) == id.SlotCount {
		fmt.Fprintln(os.Stderr, "gochat: this is the last logic node: it goes on owning everything until another comes")
	}
	ctx, cancel := context.WithTimeout(ctx, registryWait)
	defer cancel()
	if err := etcdnodes.Drain(ctx, c.client, c.prefix, name, on); err != nil {
		return err
	}
	if !on {
		_, err := fmt.Fprintf(out, "%s stays\n", name)
		return err
	}
	var does []string
	if n.Roles.Has(nodes.Edge) {
		does = append(does, c.sendsAway(ctx, n))
	}
	switch owned := c.snap.Owned(n); {
	case !n.Roles.Has(nodes.Logic):
	case owned == 0:
		does = append(does, "it owns no slots")
	default:
		does = append(does, fmt.Sprintf("%d slots go to others", owned))
	}
	if n.Roles.Has(nodes.Fanout) {
		does = append(does, "it leaves the bus to others")
	}
	if len(does) == 0 {
		does = append(does, "what it looks after goes to others")
	}
	_, err := fmt.Fprintf(out, "%s drains; %s\n", name, strings.Join(does, "; "))
	return err
}

// sendsAway says what becomes of the clients of an edge that drains, and how many there still are if that is the node whose
// configuration the command was given, on its own machine.
func (c *cluster) sendsAway(ctx context.Context, edge *nodes.Node) string {
	var others []string
	for _, n := range c.snap.View().Nodes() {
		if n.Roles.Has(nodes.Edge) && n.ID != edge.ID && !n.Draining {
			others = append(others, n.ID)
		}
	}
	to := "its clients are told to leave, but there is no other edge for them"
	if len(others) > 0 {
		to = "its clients are told to go to " + strings.Join(others, ", ")
	}
	var stats struct {
		Edge *struct{ Connections int64 } `json:"edge"`
	}
	if c.here.Cluster.NodeID == edge.ID {
		if err := ask(ctx, c.here, "GET", "/debug/vars", nil, &stats); err == nil && stats.Edge != nil {
			return fmt.Sprintf("%s: %d connections are left", to, stats.Edge.Connections)
		}
	}
	return to + ": gochat_connections of its metrics, or \"gochat admin stats\" there, says how many are left"
}
