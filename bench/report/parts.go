package report

import "io"

// part is what one round of a scenario showed that isn't made of pairs.
type part interface {
	metrics() map[string]float64 // by the names that thresholds use
	broken() string              // why the round fails whatever the thresholds, or ""
	write(w io.Writer)           // for people
}

// parts returns the rounds of the scenario that this run is of.
func (r *Run) parts() (list []part) {
	for _, h := range r.History {
		list = append(list, h)
	}
	for _, g := range r.Group {
		list = append(list, g)
	}
	for _, x := range r.Churn {
		list = append(list, x)
	}
	for _, x := range r.Crowd {
		list = append(list, x)
	}
	for _, x := range r.Room {
		list = append(list, x)
	}
	for _, x := range r.Apart {
		list = append(list, x)
	}
	for _, x := range r.Scale {
		list = append(list, x)
	}
	for _, x := range r.Restart {
		list = append(list, x)
	}
	return list
}
