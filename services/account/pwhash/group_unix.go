//go:build unix

package pwhash

import (
	"fmt"
	"os/exec"
	"syscall"
)

// setGroup gives the child a process group, so that StepBack reaches all of its threads,
// and what a terminal sends to the server's group leaves it alone: it ends when the server does.
func setGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// nice is how far a child steps back: it gets about a tenth of a core that others want, and a free one wholly.
const nice = 10

// StepBack lowers the priority of this process's group. Call it first in the child.
func StepBack() error {
	if err := syscall.Setpriority(syscall.PRIO_PGRP, 0, nice); err != nil {
		return fmt.Errorf("pwhash: stepping back: %w", err)
	}
	return nil
}
