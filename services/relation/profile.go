package relation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Fields of PROFILE_SET.
const (
	fieldName = 1 << iota
	fieldAvatar
	fieldExt
	fieldsAll = fieldName | fieldAvatar | fieldExt
)

const (
	answerBytes = 96 << 10 // of profiles in one answer; one frame must hold it
	maxTurns    = 8        // tries against other writers
)

// Profiles answers PROFILES: of those asked for who have a profile, in the order asked for.
// Whether a user without one exists isn't said.
func (s *Service) Profiles(ctx context.Context, _ *packet.Origin, inner []byte) (packet.Body, error) {
	var r wire.ProfilesRequest
	if err := packet.DecodeMethod(packet.MethodProfiles, inner, &r); err != nil {
		return nil, err
	}
	now := s.now()
	found := make([]*wire.Profile, len(r.UserIds))
	var missing []id.UserID
	var at []int
	for i, name := range r.UserIds {
		u := id.UserID(name)
		p, ok := s.profiles.get(u, now)
		if !ok {
			missing, at = append(missing, u), append(at, i)
		}
		found[i] = p
	}
	rows, err := s.rows.Profiles(ctx, missing)
	if err != nil {
		return nil, msgstore.Refusal(err)
	}
	for i := range rows {
		found[at[i]] = s.profiles.put(missing[i], wireOf(missing[i], &rows[i]), now)
	}
	ans := &wire.ProfilesResponse{Answered: uint32(len(found))}
	size := 0
	for i, p := range found {
		if p == nil {
			continue
		}
		if size += weight(p); size > answerBytes && i > 0 {
			ans.Answered = uint32(i)
			break
		}
		ans.Profiles = append(ans.Profiles, p)
	}
	return ans, nil
}

// SetProfile answers PROFILE_SET with the profile as it is then. What is set to what it was
// raises no version, so the request may be repeated.
func (s *Service) SetProfile(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
	var r wire.ProfileSetRequest
	if err := packet.DecodeMethod(packet.MethodProfileSet, inner, &r); err != nil {
		return nil, err
	}
	switch {
	case r.Fields&^fieldsAll != 0:
		return nil, code.Newf(code.BadRequest, "fields names something unknown")
	case strings.ContainsFunc(r.Name, unicode.IsControl) || strings.ContainsFunc(r.Avatar, unicode.IsControl):
		return nil, code.Newf(code.BadRequest, "a name or avatar has control characters")
	}
	p, before, changed, err := s.change(ctx, o.User, &r)
	if err != nil {
		return nil, msgstore.Refusal(err)
	}
	if changed && (p.Name != before || p.Version == 1) {
		if err := s.renamed(ctx, o.User, before, p.Name); err != nil { // the profile stands all the same
			s.log.Warn("a change of name is not in the index yet", "user", o.User, "err", err)
		}
	}
	w := s.profiles.put(o.User, wireOf(o.User, &p), s.now())
	if w == nil { // emptied before there was any
		w = &wire.Profile{UserId: string(o.User)}
	}
	if changed && !s.news.add(o, w) {
		s.log.Debug("a change of profile is not told: too many wait", "user", o.User)
	}
	return w, nil
}

// change writes what r sets, over whatever others write at the same time. before is the name that was.
func (s *Service) change(ctx context.Context, u id.UserID, r *wire.ProfileSetRequest) (p msgstore.Profile, before string, changed bool, err error) {
	for turn := 0; ; turn++ {
		p, raw, err := s.rows.Profile(ctx, u)
		if err != nil {
			return p, "", false, err
		}
		old := p
		if r.Fields&fieldName != 0 {
			p.Name = r.Name
		}
		if r.Fields&fieldAvatar != 0 {
			p.Avatar = r.Avatar
		}
		if r.Fields&fieldExt != 0 {
			p.Ext = bytes.Clone(r.Ext)
		}
		if p.Name == old.Name && p.Avatar == old.Avatar && bytes.Equal(p.Ext, old.Ext) {
			return old, old.Name, false, nil
		}
		p.Version, p.Changed = old.Version+1, s.now()
		tx := new(kv.Tx)
		s.rows.PutProfile(tx, u, raw, &p)
		tx.Require(s.cfg.Keys.Closed(nil, u), nil) // what was begun before a deletion doesn't come after it
		s.cfg.Store.Commit(ctx, tx)
		switch {
		case tx.Err == nil:
			return p, old.Name, true, nil
		case turn < maxTurns && (errors.Is(tx.Err, kv.ErrConflict) || errors.Is(tx.Err, kv.ErrUndetermined)):
			// Read again: what stands decides. A late commit of this one conflicts with the next.
		default:
			return p, old.Name, false, fmt.Errorf("write a profile: %w", tx.Err)
		}
	}
}

// wireOf returns the profile as it is sent, nil if there is none. Shared: read only.
func wireOf(u id.UserID, p *msgstore.Profile) *wire.Profile {
	if p.Version == 0 {
		return nil
	}
	return &wire.Profile{UserId: strings.Clone(string(u)), Name: p.Name, Avatar: p.Avatar, Ext: p.Ext, Version: p.Version}
}

// weight is what a profile counts in an answer and in memory, at least its encoded size.
func weight(p *wire.Profile) int {
	return len(p.UserId) + len(p.Name) + len(p.Avatar) + len(p.Ext) + 40
}
