package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What docs/cluster.md shows of configurations can be started with.
func TestConfigurationsOfTheClusterPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/cluster.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```yaml\n")
	count := 0
	for rest != "" {
		var example string
		example, rest, _ = strings.Cut(rest, "```\n")
		path := filepath.Join(t.TempDir(), "gochat.yaml")
		if err := os.WriteFile(path, []byte(example), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := Load(path, nil, nil)
		if err == nil {
			err = cfg.Validate()
		}
		if err != nil || !cfg.Cluster.On() {
			t.Errorf("%v\n%s", err, example)
		}
		count++
		_, rest, _ = strings.Cut(rest, "```yaml\n")
	}
	if count < 3 {
		t.Errorf("%d examples, want 3 and more", count)
	}
}
