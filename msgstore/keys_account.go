package msgstore

import "github.com/gochat-im/gochat/protocol/id"

// Rows of an account lie in its user's slot, behind the same `20 user 00` as the user's other rows.
const (
	rowAccount byte = 0x01
	rowDevice  byte = 0x02
	rowClosed  byte = 0x03
)

// Account appends the key of the user's account row.
func (k Keys) Account(dst []byte, u id.UserID) []byte {
	return append(k.User(dst, u), rowAccount)
}

// Closed appends the key of the row that says that the user's account is closed.
func (k Keys) Closed(dst []byte, u id.UserID) []byte {
	return append(k.User(dst, u), rowClosed)
}

// Device appends the key of the row of one of the user's devices.
func (k Keys) Device(dst []byte, u id.UserID, d id.DeviceID) []byte {
	return append(k.Devices(dst, u), d...)
}

// Devices appends the prefix of all of the user's device rows. What follows it in a key is the DeviceID.
func (k Keys) Devices(dst []byte, u id.UserID) []byte {
	return append(k.User(dst, u), rowDevice)
}
