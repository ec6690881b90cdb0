package pwhash

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A request is a fixed header, then password and salt; the answer is the key alone.
//
//	KiB u32 | passes u32 | lanes u8 | key length u8 | password length u16 | salt length u8
const headerLen = 13

const maxPassword, maxSalt, maxKey = 4096, 255, 255

func appendRequest(dst []byte, a Argon, password, salt []byte, n int) ([]byte, error) {
	if len(password) > maxPassword || len(salt) > maxSalt || n < 1 || n > maxKey {
		return nil, fmt.Errorf("pwhash: password of %d bytes, salt of %d, key of %d: out of bounds", len(password), len(salt), n)
	}
	dst = binary.BigEndian.AppendUint32(dst, a.KiB)
	dst = binary.BigEndian.AppendUint32(dst, a.Passes)
	dst = append(dst, a.Lanes, byte(n))
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(password)))
	dst = append(dst, byte(len(salt)))
	dst = append(dst, password...)
	return append(dst, salt...), nil
}

// Serve is the child's work: it answers requests, one at a time, until in ends. What in
// brings is trusted, since it comes from the process that started this one.
func Serve(in io.Reader, out io.Writer) error {
	r := bufio.NewReader(in)
	var h [headerLen]byte
	for {
		if _, err := io.ReadFull(r, h[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("pwhash: reading a request: %w", err)
		}
		a := Argon{KiB: binary.BigEndian.Uint32(h[:]), Passes: binary.BigEndian.Uint32(h[4:]), Lanes: h[8]}
		password := make([]byte, binary.BigEndian.Uint16(h[10:]))
		salt := make([]byte, h[12])
		for _, b := range [][]byte{password, salt} {
			if _, err := io.ReadFull(r, b); err != nil {
				return fmt.Errorf("pwhash: reading a request: %w", err)
			}
		}
		if _, err := out.Write(a.Key(password, salt, int(h[9]))); err != nil {
			return fmt.Errorf("pwhash: answering: %w", err)
		}
	}
}
