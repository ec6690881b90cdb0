package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gochat-im/gochat/node"
)

func adminCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "admin",
		Short: "Operate a running server",
		Long: "Each asks the server that runs on the data directory, over its administration socket, which only the server's own user may\n" +
			"open. Nothing here is open to the network.",
	}
	var flags configFlags
	user := func(use, short, long, path string) *cobra.Command {
		var in node.UserRequest
		c := &cobra.Command{Use: use, Short: short, Long: long, Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := flags.load(nil)
			if err != nil {
				return err
			}
			in.User = args[0]
			var ans node.UserAnswer
			if err := ask(cmd.Context(), cfg, "POST", path, in, &ans); err != nil {
				return err
			}
			return showUser(cmd.OutOrStdout(), &ans)
		}}
		flags.add(c)
		switch path {
		case "/gc/ban":
			c.Flags().StringVar(&in.Reason, "reason", "", "told to the user; at most 200 bytes")
		case "/gc/sign-out":
			c.Flags().StringVar(&in.Device, "device", "", "only this device (default all)")
		}
		return c
	}
	cmd.AddCommand(
		user("devices USER", "Show how a user stands, and the user's devices", "", "/gc/user"),
		user("ban USER", "Close an account until it is unbanned", "Every session of the user ends at once and no token is accepted, those of outside issuers included.\n"+
			"Messages to the user are stored as before.", "/gc/ban"),
		user("unban USER", "Take back a ban", "The user signs in again: what was signed in before the ban stays signed out.", "/gc/unban"),
		user("delete USER", "Delete an account, for good", "Sessions end, the user leaves all groups (theirs are handed over), profile, password and list of conversations are gone, nobody can\n"+
			"write to the user, and the name is never given out again. Messages stay: they are part of others' conversations.", "/gc/delete"),
		user("sign-out USER", "End the sessions of a user", "The user may sign in again.", "/gc/sign-out"),
		broadcastCommand(&flags), retentionCommand(&flags), reloadCommand(&flags), statsCommand(&flags),
	)
	return cmd
}

func showUser(out io.Writer, u *node.UserAnswer) error {
	var b strings.Builder
	b.WriteString(u.User)
	if u.Registered != nil {
		fmt.Fprintf(&b, ", registered %s", u.Registered.Format(time.DateTime))
	}
	if u.Closed != "" {
		fmt.Fprintf(&b, ", %s", strings.ToUpper(u.Closed))
		if u.Since != nil {
			fmt.Fprintf(&b, " since %s", u.Since.Format(time.DateTime))
		}
		if u.Reason != "" {
			fmt.Fprintf(&b, ": %s", u.Reason)
		}
	}
	b.WriteString("\n")
	for _, d := range u.Devices {
		state := "offline"
		if d.Online {
			state = "online"
		}
		fmt.Fprintf(&b, "  %-8s %s", state, d.Device)
		if d.SignedIn != nil {
			fmt.Fprintf(&b, ", signed in %s", d.SignedIn.Format(time.DateTime))
		}
		b.WriteString("\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func reloadCommand(flags *configFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have the server read its configuration and certificates again",
		Long: "Certificates, limits of connections and rates, budgets of deliveries, retention and the log level count at once; what else has\n" +
			"changed is named, and counts when the server is started again. What \"gochat cluster settings\" has set for all nodes holds\n" +
			"in place of what this server's own configuration says. SIGHUP does the same, and logs what this prints.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := flags.load(nil)
			if err != nil {
				return err
			}
			var done node.Reloaded
			if err := ask(cmd.Context(), cfg, "POST", "/gc/reload", nil, &done); err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			fmt.Fprintln(out, "certificates read again")
			for _, name := range done.Changed {
				fmt.Fprintln(out, "in force now:   ", name)
			}
			for _, name := range done.Etcd {
				fmt.Fprintln(out, "set for all nodes, which holds instead:", name)
			}
			for _, name := range done.Restart {
				fmt.Fprintln(out, "needs a restart:", name)
			}
			return nil
		},
	}
	flags.add(cmd)
	return cmd
}

func broadcastCommand(flags *configFlags) *cobra.Command {
	var in node.BroadcastRequest
	cmd := &cobra.Command{
		Use:   "broadcast TEXT",
		Short: "Tell everybody who is connected something",
		Long: "Every client that is connected now, at whichever server, is told once; apps show it as they like. It isn't stored: who is away\n" +
			"never hears of it. In a cluster ask a node with the role logic.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := flags.load(nil)
			if err != nil {
				return err
			}
			in.Text = args[0]
			var ans node.BroadcastAnswer
			if err := ask(cmd.Context(), cfg, "POST", "/gc/broadcast", in, &ans); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), ans.ID)
			return err
		},
	}
	cmd.Flags().StringVar(&in.Title, "title", "", "what it is about; at most 256 bytes")
	flags.add(cmd)
	return cmd
}

func statsCommand(flags *configFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Print the server's live figures as JSON",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := flags.load(nil)
			if err != nil {
				return err
			}
			var v any
			if err := ask(cmd.Context(), cfg, "GET", "/debug/vars", nil, &v); err != nil {
				return err
			}
			enc := json.NewEncoder(cmd.OutOrStdout())
			enc.SetIndent("", "  ")
			return enc.Encode(v)
		},
	}
	flags.add(cmd)
	return cmd
}
