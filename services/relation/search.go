package relation

import (
	"context"
	"encoding/base64"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Bounds of the index of names.
const (
	maxWords    = 4  // words of a name under which it is found
	lookedAt    = 64 // rows that are looked at at once,
	maxLookedAt = 512
	maxFound    = 50
)

var errNoSearch = code.Newf(code.Forbidden, "nobody can be searched for here")

// fold brings what looks alike, and upper and lower case, together.
func fold(s string) string { return norm.NFKC.String(cases.Fold().String(norm.NFKC.String(s))) }

// terms are what a user is found by: the user id, the name, and the name from each of its first words on.
func terms(u id.UserID, name string) []string {
	out := []string{fold(string(u))}
	rest := strings.TrimSpace(fold(name))
	for range maxWords {
		if rest == "" {
			break
		}
		out = append(out, rest)
		_, after, _ := strings.Cut(rest, " ")
		rest = strings.TrimSpace(after)
	}
	for i := range out {
		out[i] = strings.ReplaceAll(out[i], "\x00", "") // no name has one
	}
	slices.Sort(out)
	return slices.DeleteFunc(slices.Compact(out), func(s string) bool { return s == "" })
}

// Index makes sure that u is found by what they are called by now.
func (s *Service) Index(ctx context.Context, u id.UserID) error {
	p, _, err := s.rows.Profile(ctx, u)
	if err != nil {
		return err
	}
	t := terms(u, p.Name)
	if there, err := s.rows.HasNames(ctx, u, t); err != nil || there {
		return err
	}
	return s.rows.PutNames(ctx, u, t, nil)
}

// renamed moves u in the index after the profile was written. The rows lie in other slots, so
// they come after it: a crash in between leaves u to be found by the old name, which the
// profile denies, until Index is called. Of two changes at once the later one may have been
// put already when the earlier one takes its names away: so that one looks again.
func (s *Service) renamed(ctx context.Context, u id.UserID, before, now string) error {
	old, t := terms(u, before), terms(u, now)
	drop := slices.DeleteFunc(old, func(x string) bool {
		return slices.ContainsFunc(t, func(y string) bool { return msgstore.SameTerm(x, y) })
	})
	if err := s.rows.PutNames(ctx, u, t, drop); err != nil || len(drop) == 0 {
		return err
	}
	return s.Index(ctx, u)
}

// Search returns people whose name, a word of it, or user id begins with text, in the order of
// what they are found by; at most limit. As Config.Search says, these are all, or only those in a
// group with o's user. Who has blocked the asker isn't found, nor the asker. next is the cursor of the page
// after, empty on the last; a page may be short, or empty, and not the last.
func (s *Service) Search(ctx context.Context, o *packet.Origin, text, cursor string, limit int) (found []*wire.Profile, next string, err error) {
	if s.cfg.Search == Nobody {
		return nil, "", errNoSearch
	}
	want := fold(strings.TrimSpace(text))
	if want == "" || strings.ContainsRune(want, 0) {
		return nil, "", code.Newf(code.BadRequest, "there is nothing to look for")
	}
	limit = min(max(limit, 1), maxFound)
	after, err := parsePlace(cursor, want)
	if err != nil {
		return nil, "", err
	}
	for seen := 0; seen < maxLookedAt; seen += lookedAt {
		rows, err := s.rows.Named(ctx, want, after, lookedAt)
		if err != nil {
			return nil, "", msgstore.Refusal(err)
		}
		profiles, err := s.visible(ctx, o.User, want, rows)
		if err != nil {
			return nil, "", msgstore.Refusal(err)
		}
		for i, p := range profiles {
			if p == nil {
				continue
			}
			if found = append(found, p); len(found) == limit {
				if i == len(rows)-1 && len(rows) < lookedAt {
					return found, "", nil
				}
				return found, place(rows[i]), nil
			}
		}
		if len(rows) < lookedAt {
			return found, "", nil
		}
		after = rows[len(rows)-1]
	}
	return found, place(after), nil
}

// visible returns, for each row, the profile of its user, nil if the row isn't true any more, the
// user is found by an earlier row too, or asker may not find them.
func (s *Service) visible(ctx context.Context, asker id.UserID, want string, rows []msgstore.Found) ([]*wire.Profile, error) {
	users := make([]id.UserID, len(rows))
	pairs := make([]msgstore.Pair, len(rows))
	for i := range rows {
		users[i] = rows[i].User
		pairs[i] = msgstore.Pair{By: rows[i].User, Whom: asker}
	}
	profiles, err := s.rows.Profiles(ctx, users)
	if err != nil {
		return nil, err
	}
	blocked, err := s.rows.Blocked(ctx, pairs...)
	if err != nil {
		return nil, err
	}
	out := make([]*wire.Profile, len(rows))
	var candidates []id.UserID
	var at []int
	for i, u := range users {
		t := terms(u, profiles[i].Name)
		first := slices.IndexFunc(t, func(x string) bool { return strings.HasPrefix(x, want) })
		if u == asker || blocked[i] || first < 0 || !msgstore.SameTerm(t[first], rows[i].Term) {
			continue
		}
		if exists, err := s.cfg.Users.Exists(ctx, u); err != nil {
			return nil, err
		} else if !exists {
			continue
		}
		candidates, at = append(candidates, u), append(at, i)
	}
	if s.cfg.Search == SharedGroup && len(candidates) > 0 {
		shared, err := s.shareGroup(ctx, asker, candidates)
		if err != nil {
			return nil, err
		}
		kept := at[:0]
		for i := range at {
			if shared[i] {
				kept = append(kept, at[i])
			}
		}
		at = kept
	}
	for _, i := range at {
		if out[i] = wireOf(users[i], &profiles[i]); out[i] == nil {
			out[i] = &wire.Profile{UserId: string(users[i])}
		}
	}
	return out, nil
}

// place is a cursor: where the page ended.
func place(f msgstore.Found) string {
	return base64.RawURLEncoding.EncodeToString([]byte(f.Term + "\x00" + string(f.User)))
}

func parsePlace(cursor, want string) (f msgstore.Found, err error) {
	if cursor == "" {
		return f, nil
	}
	b, derr := base64.RawURLEncoding.DecodeString(cursor)
	term, user, ok := strings.Cut(string(b), "\x00")
	f = msgstore.Found{Term: term, User: id.UserID(user)}
	if derr != nil || !ok || !utf8.ValidString(term) || !f.User.Valid() || !strings.HasPrefix(term, msgstore.CutTerm(want)) {
		return f, code.Newf(code.BadRequest, "cursor is none that was given out for this text")
	}
	return f, nil
}
