package account

import (
	"encoding/binary"
	"fmt"

	"github.com/gochat-im/gochat/msgstore"
)

// rowVersion is the first byte of every row of this package.
const rowVersion = 1

// accountRow is `20 user 00 01`. An account of GoChat's own has a Hash; a row without
// one holds only the NotBefore of an outside issuer's user.
//
//	version u8 | created uvarint | notBefore uvarint | hash: uvarint length, bytes
type accountRow struct {
	Created   int64  // Unix ms
	NotBefore int64  // Unix ms; tokens that name no session are refused if they were issued earlier
	Hash      string // the password's, in the PHC string format
}

func (a *accountRow) append(dst []byte) []byte {
	dst = append(dst, rowVersion)
	dst = binary.AppendUvarint(dst, uint64(a.Created))
	dst = binary.AppendUvarint(dst, uint64(a.NotBefore))
	dst = binary.AppendUvarint(dst, uint64(len(a.Hash)))
	return append(dst, a.Hash...)
}

func parseAccount(b []byte) (accountRow, error) {
	r := rowReader{rest: b, what: "account row"}
	r.version()
	a := accountRow{Created: r.time(), NotBefore: r.time(), Hash: string(r.bytes())}
	return a, r.end()
}

// deviceRow is `20 user 00 02 device`: the session of one device, and all that is
// needed to tell a token of it from one of a session that ended.
//
//	version u8 | kind u8 | generation uvarint | created uvarint | used uvarint | expires uvarint | revoked uvarint |
//	rotated uvarint | refresh hash: uvarint length, bytes | previous hash: uvarint length, bytes
type deviceRow struct {
	Kind       uint8
	Generation uint64 // raised by every sign-in and revocation; never 0
	Created    int64  // Unix ms of the sign-in
	Used       int64  // Unix ms of the last sign-in or refresh
	Expires    int64  // Unix ms; without a refresh the session ends then
	Revoked    int64  // Unix ms; 0: it wasn't
	Rotated    int64  // Unix ms when Previous was replaced by Refresh
	Refresh    []byte // SHA-256 of the one refresh token that is good
	Previous   []byte // SHA-256 of the one before it
}

func (d *deviceRow) append(dst []byte) []byte {
	dst = append(dst, rowVersion, d.Kind)
	dst = binary.AppendUvarint(dst, d.Generation)
	for _, t := range [...]int64{d.Created, d.Used, d.Expires, d.Revoked, d.Rotated} {
		dst = binary.AppendUvarint(dst, uint64(t))
	}
	dst = binary.AppendUvarint(dst, uint64(len(d.Refresh)))
	dst = append(dst, d.Refresh...)
	dst = binary.AppendUvarint(dst, uint64(len(d.Previous)))
	return append(dst, d.Previous...)
}

// parseDevice reads a device row. The hashes alias b.
func parseDevice(b []byte) (deviceRow, error) {
	r := rowReader{rest: b, what: "device row"}
	r.version()
	d := deviceRow{
		Kind: r.byte(), Generation: r.uvarint(),
		Created: r.time(), Used: r.time(), Expires: r.time(), Revoked: r.time(), Rotated: r.time(),
		Refresh: r.bytes(), Previous: r.bytes(),
	}
	return d, r.end()
}

// live reports whether the row's session is good at nowMS.
func (d *deviceRow) live(nowMS int64) bool { return d.Revoked == 0 && nowMS < d.Expires }

// rowReader reads the parts of a row and keeps the first error.
type rowReader struct {
	rest []byte
	what string
	err  error
}

func (r *rowReader) fail(err error) {
	if r.err == nil {
		r.err = fmt.Errorf("account: %s: %w", r.what, err)
	}
	r.rest = nil
}

func (r *rowReader) version() {
	if v := r.byte(); r.err == nil && v != rowVersion {
		r.fail(fmt.Errorf("version %d: %w", v, msgstore.ErrVersion))
	}
}

func (r *rowReader) byte() byte {
	if len(r.rest) == 0 {
		r.fail(msgstore.ErrCorrupt)
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *rowReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.fail(msgstore.ErrCorrupt)
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *rowReader) time() int64 { return int64(r.uvarint()) }

func (r *rowReader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.rest)) {
		r.fail(msgstore.ErrCorrupt)
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

// end returns the first error. Bytes that are left over belong to a later version's fields
// and would be lost by writing the row again, so they are an error too.
func (r *rowReader) end() error {
	if r.err == nil && len(r.rest) > 0 {
		r.fail(msgstore.ErrCorrupt)
	}
	return r.err
}
