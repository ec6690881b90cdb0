//go:build unix

package gochat

import (
	"errors"
	"os"
	"syscall"
)

// lockFile takes the file for this process; the kernel lets go of it when the process ends.
func lockFile(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrStoreInUse
	}
	return err
}
