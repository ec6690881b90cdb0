// Package auth holds the JSON bodies of GoChat's authentication routes under
// /api/v1/auth, shared by the server and the SDK.
//
//	POST register, login   Credentials    -> Grant
//	POST refresh           Refresh        -> Grant
//	POST logout            Logout         -> {}
//	POST password          Password       -> {}   (Authorization: Bearer <access token>)
//
// Every refusal is a Refused body with the HTTP status of its code.
package auth

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
)

// Credentials are what a person signs in with, and on which device.
type Credentials struct {
	Name       string     `json:"name"`     // the user id; brought to Unicode NFC by the server
	Password   string     `json:"password"` // 8 to 256 bytes of UTF-8
	DeviceID   string     `json:"device_id,omitempty"`
	DeviceKind DeviceKind `json:"device_kind,omitempty"`
}

// DeviceKind is a wire.DeviceKind. It is written as its number and read as that or as the
// name that it has in a frame's JSON form; kinds of a later version are read as unknown.
type DeviceKind uint8

// kinds are the names by number.
var kinds = [...]string{"unknown", "phone", "tablet", "desktop", "web", "bot"}

// UnmarshalJSON reads a number or a name.
func (k *DeviceKind) UnmarshalJSON(b []byte) error {
	var name string
	var number uint32
	if bytes.HasPrefix(b, []byte{'"'}) {
		if err := json.Unmarshal(b, &name); err != nil {
			return fmt.Errorf("device_kind: %w", err)
		}
		number = uint32(max(slices.Index(kinds[:], name), 0))
	} else if err := json.Unmarshal(b, &number); err != nil {
		return fmt.Errorf("device_kind: %w", err)
	}
	if *k = DeviceKind(number); number >= uint32(len(kinds)) {
		*k = 0
	}
	return nil
}

// Grant is a signed-in device: who it is and the tokens that say so.
type Grant struct {
	UserID         string `json:"user_id"`
	DeviceID       string `json:"device_id"` // made by the server if the client named none
	AccessToken    string `json:"access_token"`
	AccessExpires  int64  `json:"access_expires"` // Unix milliseconds
	RefreshToken   string `json:"refresh_token"`  // good for one refresh; the answer brings the next
	RefreshExpires int64  `json:"refresh_expires"`
}

// Refresh asks for new tokens.
type Refresh struct {
	RefreshToken string `json:"refresh_token"`
}

// Logout signs the device of the token out, or every device of its user.
type Logout struct {
	RefreshToken string `json:"refresh_token"`
	All          bool   `json:"all,omitempty"`
}

// Password changes the password of the access token's user and signs the user's other devices out.
type Password struct {
	Old string `json:"old_password"`
	New string `json:"new_password"`
}

// Refused is the body of every answer that isn't a success.
type Refused struct {
	Error Error `json:"error"`
}

// Error is a code of the registry (protocol/code) with its particulars.
type Error struct {
	Code         uint32 `json:"code"`
	Name         string `json:"name"`
	Message      string `json:"message"`
	RetryAfterMS int64  `json:"retry_after_ms"` // 0: at once, if at all
	RequestID    string `json:"request_id"`
}
