package node

import (
	"context"
	"time"

	"github.com/gochat-im/gochat/services/apikey"
)

// KeyRequest is an operator's request about server API keys.
type KeyRequest struct {
	Name   string   `json:"name,omitempty"`   // of a new one
	Scopes []string `json:"scopes,omitempty"` // of a new one
	ID     string   `json:"id,omitempty"`     // of the one to revoke
}

// KeyAnswer is one server API key.
type KeyAnswer struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Scopes  []string  `json:"scopes"`
	Created time.Time `json:"created"`
	Text    string    `json:"text,omitempty"` // of a new one: it is shown this once
}

// KeysAnswer is all of them, the oldest first.
type KeysAnswer struct {
	Keys []KeyAnswer `json:"keys"`
}

func keyAnswer(k *apikey.Key, text string) KeyAnswer {
	return KeyAnswer{ID: k.ID, Name: k.Name, Scopes: k.Scopes, Created: k.Created, Text: text}
}

func (n *Node) keyCreateRequest(ctx context.Context, in KeyRequest) (KeyAnswer, error) {
	text, k, err := n.logic.APIKeys.Create(ctx, in.Name, in.Scopes)
	if err != nil {
		return KeyAnswer{}, err
	}
	return keyAnswer(&k, text), nil
}

func (n *Node) keyListRequest(ctx context.Context, _ KeyRequest) (KeysAnswer, error) {
	keys, err := n.logic.APIKeys.List(ctx)
	if err != nil {
		return KeysAnswer{}, err
	}
	ans := KeysAnswer{Keys: []KeyAnswer{}}
	for i := range keys {
		ans.Keys = append(ans.Keys, keyAnswer(&keys[i], ""))
	}
	return ans, nil
}

func (n *Node) keyRevokeRequest(ctx context.Context, in KeyRequest) (KeysAnswer, error) {
	if err := n.logic.APIKeys.Revoke(ctx, in.ID); err != nil {
		return KeysAnswer{}, err
	}
	return n.keyListRequest(ctx, KeyRequest{})
}
