package gochat

import (
	"unicode/utf8"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

const (
	maxDrafts    = 64       // of others, that the client follows at once
	maxDraftText = 64 << 10 // bytes of one
)

// Draft is a message that others see while it is being written, by a person or word by word
// by a program. Chunks of it are never stored and may be lost: when it is done, Send the whole text.
// Gather before writing: some chunks a second are enough for anybody. Not for several goroutines at once.
type Draft struct {
	c      *Client
	to     Target
	number uint64
	size   int
}

// NewDraft begins a draft. The one before it, of this device in this conversation, is over for others.
func (c *Client) NewDraft(to Target) *Draft {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lastDraft == 0 {
		c.lastDraft = uint64(c.serverNow().UnixMilli()) // above those of the last process
	}
	c.lastDraft++
	return &Draft{c: c, to: to, number: c.lastDraft}
}

// Write shows more text. Errors are those of Client.Signal.
func (d *Draft) Write(text string) error {
	for len(text) > 0 {
		n := min(len(text), packet.MaxChunk)
		for n < len(text) && n > 0 && !utf8.RuneStart(text[n]) {
			n--
		}
		chunk := packet.Chunk{Draft: d.number, Offset: uint64(d.size), Text: text[:n]}
		if err := d.c.Signal(d.to, packet.SignalChunk, packet.AppendChunk(nil, chunk)); err != nil {
			return err
		}
		d.size, text = d.size+n, text[n:]
	}
	return nil
}

// Rewrite replaces all that was written from offset on, in bytes, by text.
func (d *Draft) Rewrite(offset int, text string) error {
	d.size = min(max(offset, 0), d.size)
	if text == "" {
		return d.c.Signal(d.to, packet.SignalChunk, packet.AppendChunk(nil, packet.Chunk{Draft: d.number, Offset: uint64(d.size)}))
	}
	return d.Write(text)
}

// DraftChanged: somebody is writing this. Text is the draft so far, or its beginning, if something of it
// was lost on the way. It is over with the sender's next message in the conversation, and is best
// hidden after half a minute without another one of these.
type DraftChanged struct {
	Conversation id.ConversationID
	Sender       id.UserID
	Device       id.DeviceID
	Text         string
}

func (DraftChanged) event() {}

// draftKey names a draft.
type draftKey struct {
	conv   id.ConversationID
	sender id.UserID
	device id.DeviceID
}

// draft is what is known of a draft of somebody's.
type draft struct {
	number uint64
	text   []byte
}

// chunkArrived takes in a chunk. The caller holds mu.
func (c *Client) chunkArrived(conv id.ConversationID, m *wire.Signal) {
	ch, err := packet.DecodeChunk(m.Data)
	if err != nil {
		c.log.Warn("a chunk that can't be read", "error", err)
		return
	}
	key := draftKey{conv, id.UserID(m.SenderId), id.DeviceID(m.SenderDevice)}
	d := c.drafts[key]
	if d == nil || d.number != ch.Draft {
		if d == nil && len(c.drafts) >= maxDrafts {
			for k := range c.drafts { // an arbitrary one makes room: its next chunk at offset 0 brings it back
				delete(c.drafts, k)
				break
			}
		}
		if c.drafts == nil {
			c.drafts = map[draftKey]*draft{}
		}
		d = &draft{number: ch.Draft}
		c.drafts[key] = d
	}
	if ch.Offset > uint64(len(d.text)) || len(ch.Text) > maxDraftText-int(ch.Offset) { // beyond a hole, or too much
		return
	}
	d.text = append(d.text[:ch.Offset], ch.Text...)
	if !utf8.Valid(d.text) { // cut within a character
		return
	}
	c.push(DraftChanged{Conversation: conv, Sender: key.sender, Device: key.device, Text: string(d.text)})
}

// draftsDone ends the drafts of a sender whose message has come. The caller holds mu.
func (c *Client) draftsDone(conv id.ConversationID, sender id.UserID) {
	for k := range c.drafts {
		if k.conv == conv && k.sender == sender {
			delete(c.drafts, k)
		}
	}
}
