package local

import (
	"errors"
	"fmt"
	"os"
)

// Found is a process of a cluster that runs, whoever started it, with where it is reached.
type Found struct {
	Live
	TCP  string // of an edge: clients
	HTTP string // of a node: /metrics and /readyz, and an edge's clients
}

// FindNodes returns what runs of the cluster in dir, in the order of the pids. It is an error if no edge does.
func FindNodes(dir string) ([]Found, error) {
	s, err := readState(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("local cluster: there has been none in %s", dir)
	} else if err != nil {
		return nil, err
	}
	var all []Found
	edges := 0
	for _, p := range s.live() {
		f := Found{Live: p, TCP: s.Ports[p.Name+" tcp"], HTTP: s.Ports[p.Name+" http"]}
		if f.HTTP == "" {
			f.HTTP = s.Ports[p.Name+" monitor"]
		}
		if f.TCP != "" {
			edges++
		}
		all = append(all, f)
	}
	if edges == 0 {
		return nil, fmt.Errorf("local cluster: no edge of %s runs", dir)
	}
	return all, nil
}
