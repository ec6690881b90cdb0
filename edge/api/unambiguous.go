package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"

	"github.com/gochat-im/gochat/protocol/code"
)

// maxDepth is how deeply a body may be nested.
const maxDepth = 16

var (
	errNotJSON = code.Newf(code.BadRequest, "the body isn't JSON")
	errDepth   = code.Newf(code.BadRequest, "the body is nested too deeply")
	errTwice   = code.Newf(code.BadRequest, "the body names a member twice")
)

// unambiguous refuses what two readers of JSON may read differently: a member named twice, more than
// one value, deep nesting. The names compare after their escapes were read.
func unambiguous(body []byte) *code.Error {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if err := value(dec, 0); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errNotJSON
	}
	return nil
}

func value(dec *json.Decoder, depth int) *code.Error {
	tok, err := dec.Token()
	if err != nil {
		return errNotJSON
	}
	open, ok := tok.(json.Delim)
	if !ok {
		return nil
	}
	if depth == maxDepth {
		return errDepth
	}
	var seen map[string]struct{}
	for dec.More() {
		if open == '{' {
			tok, err := dec.Token()
			name, ok := tok.(string)
			if err != nil || !ok {
				return errNotJSON
			}
			if _, twice := seen[name]; twice {
				return errTwice
			}
			if seen == nil {
				seen = make(map[string]struct{})
			}
			seen[name] = struct{}{}
		}
		if err := value(dec, depth+1); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return errNotJSON
	}
	return nil
}
