//go:build !linux

package local

import "syscall"

// processAttr has a process not hear the signals of a terminal. Here nothing ends it with its starter.
func processAttr(bool) *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

func slacken() {}
