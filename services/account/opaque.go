package account

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/gochat-im/gochat/protocol/id"
)

// Refresh and resume tokens are opaque to clients. Inside they are
//
//	purpose u8 | numbers uvarint... | user: length u8, bytes | device: length u8, bytes | [secret] | MAC
//
// in unpadded base64url. The MAC (HMAC-SHA256, 32 bytes) covers all before it; the purpose
// keeps a token of one sort from being taken for the other.
const (
	purposeResume  = 'R'
	purposeRefresh = 'F'
	purposeNext    = 'N' // never in a token: the derivation of the next refresh secret

	maxOpaque = 512 // bytes of a token's text
)

var opaque64 = base64.RawURLEncoding.Strict()

func mac(key []byte, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, key)
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// seal appends the MAC and returns the token's text.
func seal(key, body []byte) string {
	return opaque64.EncodeToString(append(body, mac(key, body)...))
}

// open returns what stands before the MAC, if one of the keys made it.
func (k *Keys) open(text string, purpose byte) ([]byte, bool) {
	if len(text) > maxOpaque {
		return nil, false
	}
	raw, err := opaque64.DecodeString(text)
	if err != nil || len(raw) < 1+sha256.Size || raw[0] != purpose {
		return nil, false
	}
	body, sum := raw[:len(raw)-sha256.Size], raw[len(raw)-sha256.Size:]
	for _, key := range k.mac {
		if hmac.Equal(mac(key, body), sum) {
			return body, true
		}
	}
	return nil, false
}

// fields reads the parts of an opened token. ok turns false at the first that is missing.
type fields struct {
	rest []byte
	ok   bool
}

func (f *fields) uvarint() uint64 {
	v, n := binary.Uvarint(f.rest)
	if n <= 0 {
		f.ok = false
		return 0
	}
	f.rest = f.rest[n:]
	return v
}

func (f *fields) name() string {
	if len(f.rest) == 0 || len(f.rest) < 1+int(f.rest[0]) {
		f.ok = false
		return ""
	}
	n := 1 + int(f.rest[0])
	s := string(f.rest[1:n])
	f.rest = f.rest[n:]
	return s
}

func appendName(dst []byte, s string) []byte {
	dst = append(dst, byte(len(s))) // ids have at most 64 bytes
	return append(dst, s...)
}

// resumeClaims is what a resume token says: whose session it was and until when it may go
// on being resumed without another access token.
type resumeClaims struct {
	session
	until int64 // Unix ms; no token of this chain is good after it; 0: the device's row says when
}

// resumeEnd bounds a chain of resumptions, each of which brings the token for the next.
// A session of our own ends with its row (see deviceRow.Expires). What somebody else
// signed can't be prolonged by staying connected: it may be resumed until one ResumeTTL after it expired.
func (s *Service) resumeEnd(who Identity) int64 {
	if who.generation != 0 {
		return 0
	}
	return who.Expires.Add(s.cfg.ResumeTTL).UnixMilli()
}

// sealResume makes the resume token of a session, good for ResumeTTL from now.
func (s *Service) sealResume(r *resumeClaims) string {
	now := s.cfg.Now()
	body := make([]byte, 0, 256)
	body = append(body, purposeResume)
	for _, v := range [...]uint64{uint64(now.Add(s.cfg.ResumeTTL).UnixMilli()), r.generation, uint64(r.issued), uint64(r.until)} {
		body = binary.AppendUvarint(body, v)
	}
	body = appendName(body, string(r.user))
	body = appendName(body, string(r.device))
	return seal(s.cfg.Crypt.mac[0], body)
}

// openResume checks a resume token but for revocation.
func (s *Service) openResume(text string) (resumeClaims, bool) {
	return s.cfg.Crypt.openResume(text, s.nowMS())
}

// Resumes tells whose session a resume token is of, for somebody who has no store: that it was made for the
// device and is good at the time now, not that the session stands.
func (k *Keys) Resumes(text string, device id.DeviceID, now time.Time) (id.UserID, bool) {
	r, ok := k.openResume(text, now.UnixMilli())
	return r.user, ok && r.device == device
}

// openResume is Service.openResume at now, in Unix milliseconds.
func (k *Keys) openResume(text string, now int64) (resumeClaims, bool) {
	body, ok := k.open(text, purposeResume)
	if !ok {
		return resumeClaims{}, false
	}
	f := fields{rest: body[1:], ok: true}
	expires := int64(f.uvarint())
	r := resumeClaims{session: session{generation: f.uvarint(), issued: int64(f.uvarint())}, until: int64(f.uvarint())}
	r.user, r.device = id.UserID(f.name()), id.DeviceID(f.name())
	if !f.ok || len(f.rest) != 0 || now >= expires || r.until != 0 && now >= r.until {
		return resumeClaims{}, false
	}
	return r, true
}

// refreshToken is an opened refresh token.
type refreshToken struct {
	generation uint64
	user       id.UserID
	device     id.DeviceID
	body       []byte
}

const secretLen = 32

// sealRefresh makes a refresh token around a secret.
func sealRefresh(key []byte, generation uint64, u id.UserID, d id.DeviceID, secret []byte) string {
	body := make([]byte, 0, 256)
	body = append(body, purposeRefresh)
	body = binary.AppendUvarint(body, generation)
	body = appendName(body, string(u))
	body = appendName(body, string(d))
	return seal(key, append(body, secret...))
}

// openRefresh reads a refresh token that this server made at some time, good or not.
func (k *Keys) openRefresh(text string) (refreshToken, bool) {
	body, ok := k.open(text, purposeRefresh)
	if !ok {
		return refreshToken{}, false
	}
	f := fields{rest: body[1:], ok: true}
	t := refreshToken{generation: f.uvarint(), user: id.UserID(f.name()), device: id.DeviceID(f.name()), body: body}
	return t, f.ok && len(f.rest) == secretLen
}

// next returns the refresh token that follows t, as the given MAC key derives it.
func (t *refreshToken) next(key []byte) string {
	return sealRefresh(key, t.generation, t.user, t.device, mac(key, []byte{purposeNext}, t.body))
}

func tokenHash(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}
