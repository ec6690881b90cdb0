//go:build !unix

package pwhash

import "os/exec"

func setGroup(*exec.Cmd) {}

// StepBack does nothing on this system: the child runs at the server's priority.
func StepBack() error { return nil }
