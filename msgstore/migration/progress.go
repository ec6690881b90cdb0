package migration

import "sync/atomic"

// Phase is what a migration does now.
type Phase int32

// The phases, in their order.
const (
	Preparing Phase = iota
	Counting        // how much there is
	Copying
	Verifying // every row of both stores is compared
	Complete
)

// String returns the phase as one word.
func (p Phase) String() string {
	return [...]string{"preparing", "counting", "copying", "verifying", "complete"}[p]
}

// Amount is a number of rows and their bytes.
type Amount struct{ Rows, Bytes uint64 }

// Progress is how far a migration is. It may be read while the migration runs.
type Progress struct {
	phase                 atomic.Int32
	total, copies, proven amount
}

type amount struct{ rows, bytes atomic.Uint64 }

func (a *amount) add(rows, bytes uint64) {
	a.rows.Add(rows)
	a.bytes.Add(bytes)
}

func (a *amount) get() Amount { return Amount{a.rows.Load(), a.bytes.Load()} }

// Phase returns what is done now.
func (p *Progress) Phase() Phase { return Phase(p.phase.Load()) }

// Total returns how much there is; it grows while Phase is Counting.
func (p *Progress) Total() Amount { return p.total.get() }

// Copied returns how much was copied, by earlier runs too.
func (p *Progress) Copied() Amount { return p.copies.get() }

// Verified returns how much was compared, by earlier runs too.
func (p *Progress) Verified() Amount { return p.proven.get() }

func (p *Progress) enter(phase Phase)           { p.phase.Store(int32(phase)) }
func (p *Progress) counted(rows, bytes uint64)  { p.total.add(rows, bytes) }
func (p *Progress) copied(rows, bytes uint64)   { p.copies.add(rows, bytes) }
func (p *Progress) verified(rows, bytes uint64) { p.proven.add(rows, bytes) }
