// Package code is the registry of GoChat's error and close codes. The numbers
// stand in codes.json, from which the constants here and the table in SPEC.md
// are generated.
package code

import (
	"fmt"
	"time"
)

// Code is a registered number. Numbers are never reused.
type Code uint32

// Class tells the receiver what may be done with the refused thing.
type Class uint8

const (
	Terminal  Class = iota // trying again is of no use
	RetrySame              // try again later under the same id: it may have been stored
	RetryNew               // try again under a new id (or a new connection): it was not stored
)

// Scope tells what an error ends.
type Scope uint8

const (
	ScopeMessage    Scope = iota // the one request
	ScopeLane                    // what this connection sends to that conversation, until a resend
	ScopeConnection              // the connection
)

// Error is a registered code with its particulars. It is what crosses every
// boundary of GoChat: frames, HTTP, the calls between nodes.
type Error struct {
	Code       Code
	Reason     string        // for people; never holds a token or a message's text
	RetryAfter time.Duration // 0: the registry's
	Cause      error         // for the log; not sent
}

// New returns an Error of c with the registry's text as its reason.
func New(c Code) *Error { return &Error{Code: c, Reason: c.Text(), RetryAfter: c.RetryAfter()} }

// Newf returns an Error of c with a reason of its own.
func Newf(c Code, format string, args ...any) *Error {
	return &Error{Code: c, Reason: fmt.Sprintf(format, args...), RetryAfter: c.RetryAfter()}
}

// Wrap returns an Error of c because of cause, which is logged and not sent.
func Wrap(c Code, cause error) *Error {
	return &Error{Code: c, Reason: c.Text(), RetryAfter: c.RetryAfter(), Cause: cause}
}

func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s (%d): %s: %v", e.Code, uint32(e.Code), e.Reason, e.Cause)
	}
	return fmt.Sprintf("%s (%d): %s", e.Code, uint32(e.Code), e.Reason)
}

func (e *Error) Unwrap() error { return e.Cause }

// Is matches any Error of the same code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Retryable reports whether the same request may be sent again as it is.
func (e *Error) Retryable() bool { return e.Code.Class() == RetrySame }

//go:generate go run gen.go

// String returns the code's registered name.
func (c Code) String() string {
	if e, ok := registry[c]; ok {
		return e.name
	}
	return fmt.Sprintf("code_%d", uint32(c))
}

// Text returns the registry's sentence for people.
func (c Code) Text() string { return registry[c].text }

// Scope returns what an error of this code ends. An unknown code ends the request by its thousand:
// 1xxx connection, 2xxx lane, else message.
func (c Code) Scope() Scope {
	if e, ok := registry[c]; ok {
		return e.scope
	}
	switch c / 1000 {
	case 1:
		return ScopeConnection
	case 2:
		return ScopeLane
	}
	return ScopeMessage
}

// Class returns what may be done about it. An unknown 2xxx is RetrySame, any other unknown code Terminal.
func (c Code) Class() Class {
	if e, ok := registry[c]; ok {
		return e.class
	}
	if c/1000 == 2 {
		return RetrySame
	}
	return Terminal
}

// RetryAfter returns the least time to wait before trying again.
func (c Code) RetryAfter() time.Duration { return registry[c].retryAfter }

// HTTP returns the status that HTTP answers carry.
func (c Code) HTTP() int {
	if e, ok := registry[c]; ok {
		return e.http
	}
	return 500
}

// WS returns the WebSocket close code.
func (c Code) WS() int {
	if e, ok := registry[c]; ok {
		return e.ws
	}
	return 1011
}
