// Package pwhash computes argon2id in processes of its own. A hash takes a core for tens
// of milliseconds and 19 MiB: in the server's process a flood of sign-ins would delay
// messages by as much, since Go's scheduler gives a computing goroutine 10 ms before
// another gets its turn. A process can step back (nice) instead, and takes its memory
// with it when it ends.
package pwhash

import "golang.org/x/crypto/argon2"

// Argon is the cost of an argon2id hash. It is stored with each hash, so it may be
// changed at any time: a password is hashed anew at the next sign-in.
type Argon struct {
	KiB    uint32 // memory
	Passes uint32
	Lanes  uint8
}

// Key computes the argon2id key of n bytes in this process.
func (a Argon) Key(password, salt []byte, n int) []byte {
	return argon2.IDKey(password, salt, a.Passes, a.KiB, a.Lanes, uint32(n))
}
