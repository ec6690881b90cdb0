package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/tools/cluster/local"
)

// issuerDir is where, in a local cluster's directory, the key lies that signs the tokens of a load. Who can read it can read
// the cluster's own keys as well, which lie beside it.
const issuerDir = "bench"

// LocalIssuer returns the issuer whose tokens the nodes of the local cluster in dir take. It is made the first time.
func LocalIssuer(dir string) (*Issuer, error) {
	dir, err := filepath.Abs(filepath.Join(dir, issuerDir))
	if err != nil {
		return nil, fmt.Errorf("the issuer of a cluster: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("the issuer of a cluster: %w", err)
	}
	is, err := LoadIssuer(localIssuer, filepath.Join(dir, signFile))
	if errors.Is(err, os.ErrNotExist) {
		is, err = NewIssuer(dir, "EdDSA")
	}
	if err != nil {
		return nil, err
	}
	is.Name, is.KeyFile = localIssuer, filepath.Join(dir, publicFile)
	return is, nil
}

// Config is what a server's configuration says of the issuer.
func (is *Issuer) Config() string {
	return fmt.Sprintf("issuers:\n  - {issuer: %q, algorithm: %q, key_file: %q, prefix: %q}\n", is.Name, is.Algorithm, is.KeyFile, is.prefix())
}

// Env is the setting as a server takes it from its environment.
func (s Setting) Env() string {
	return "GOCHAT_" + strings.ToUpper(strings.ReplaceAll(s.Name, ".", "__")) + "=" + s.Value
}

// Unlimited are the limits on sending, which are made for people, far above what any load reaches.
func Unlimited() Settings {
	const most = "1000000"
	return Settings{{"limits.sends_per_second", most}, {"limits.user_sends_per_second", most}, {"limits.bytes_per_second", "1GiB"}}
}

// Running returns the local cluster of dir, which runs already, as a load sees it: its edges, the issuer whose tokens it takes, all of its processes
// and the metrics of all nodes together.
func Running(dir string) (t load.Target, err error) {
	found, err := local.FindNodes(dir)
	if err != nil {
		return t, err
	}
	key := filepath.Join(dir, issuerDir, signFile)
	is, err := LoadIssuer(localIssuer, key)
	if err != nil {
		return t, fmt.Errorf("the cluster in %s takes no tokens of a benchmark: %w", dir, err)
	}
	t.Token, t.Issuer, t.Key = is.Token, is.Name, key
	var edges, pages []netip.AddrPort
	for _, f := range found {
		t.Nodes = append(t.Nodes, load.Process{Name: f.Name, PID: f.PID})
		for _, a := range []struct {
			text string
			list *[]netip.AddrPort
		}{{f.TCP, &edges}, {f.HTTP, &pages}} {
			if a.text == "" {
				continue
			}
			addr, err := netip.ParseAddrPort(a.text)
			if err != nil {
				return t, fmt.Errorf("address of %s: %w", f.Name, err)
			}
			*a.list = append(*a.list, addr)
		}
	}
	t.Addr, t.Also = edges[0], edges[1:]
	t.Stats = func(ctx context.Context) (load.Stats, error) { return ReadMetrics(ctx, pages...) }
	return t, nil
}

// tails writes the end of what each of the nodes said.
func tails(w io.Writer, all []*local.Process) {
	const most = 2 << 10
	for _, p := range all {
		if b, err := os.ReadFile(p.Log); p.Role != "" && err == nil && len(b) > 0 {
			fmt.Fprintf(w, "%s:\n%s\n", p.Name, b[max(0, len(b)-most):])
		}
	}
}
