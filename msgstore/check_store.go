package msgstore

import (
	"bytes"
	"encoding/binary"
	"strings"

	"github.com/gochat-im/gochat/protocol/id"
)

// storeSlot audits the rows of the whole store.
func (a *auditor) storeSlot() error {
	start := a.keys.prefix(nil, id.SlotStore)
	partitions := map[uint16]int{} // references in each
	for from, end := start, prefixEnd(bytes.Clone(start)); ; {
		key, err := firstKey(a.ctx, a.store, from, end)
		if err != nil || key == nil {
			return err
		}
		p, ok := split(key)
		switch {
		case ok && p.area == storeRow:
			a.storeRow(key, string(p.rest))
		case ok && p.area == storeBusRef && len(p.rest) == 10:
			partition := binary.BigEndian.Uint16(p.rest)
			if partitions[partition]++; partitions[partition] == 1 {
				if err := a.busLog(partition); err != nil {
					return err
				}
			}
			from = prefixEnd(a.keys.BusRefs(nil, partition))
			continue
		case ok && p.area == storeBusPos:
			if err := a.busPosition(key, p.rest); err != nil {
				return err
			}
		case ok && p.area == storeDeleting && id.UserID(p.rest).Valid():
			raw, err := a.store.Get(a.ctx, key)
			if err == nil {
				_, err = ParseDeleting(raw)
			}
			if err != nil {
				a.findUser(Error, noConversation, id.UserID(p.rest), "%v", err)
			}
		default:
			a.find(Warning, noConversation, "unknown key %x", key)
		}
		from = append(key, 0)
	}
}

func (a *auditor) storeRow(key []byte, name string) {
	switch {
	case name == metaRowName: // was read first
	case name == clockRowName, strings.HasPrefix(name, clockRows):
		raw, err := a.store.Get(a.ctx, key)
		if err == nil {
			_, err = parseClock(raw)
		}
		if err != nil {
			a.find(Error, noConversation, "%v", err)
		}
	case name == copyRowName, strings.HasPrefix(name, copyRows):
		raw, err := a.store.Get(a.ctx, key)
		if err == nil {
			if name == copyRowName {
				_, err = ParseCopy(raw)
			} else {
				_, err = ParseCopyPart(raw)
			}
		}
		if err != nil {
			a.find(Error, noConversation, "%v", err)
		}
	default:
		if strings.HasPrefix(name, "apikey:") { // services/apikey reads it
			return
		}
		a.find(Warning, noConversation, "unknown row %q of the store", name)
	}
}

func (a *auditor) busPosition(key, rest []byte) error {
	group, partition, ok := busGroup(rest)
	if !ok {
		a.find(Warning, noConversation, "unknown key %x", key)
		return nil
	}
	raw, err := a.store.Get(a.ctx, key)
	if err != nil {
		return err
	}
	if _, err := ParseBusPosition(raw); err != nil {
		a.find(Error, noConversation, "group %q, partition %d: %v", group, partition, err)
	}
	return nil
}

// busLog audits the references of one partition: for each conversation they follow each
// other without a gap and end with its last message. Conversations are held in parts.
func (a *auditor) busLog(partition uint16) error {
	start := a.keys.BusRefs(nil, partition)
	end := prefixEnd(bytes.Clone(start))
	n := 0
	err := each(a.ctx, a.store, start, end, func(key, value []byte) error {
		n++
		if len(key) != len(start)+8 {
			a.find(Warning, noConversation, "unknown key %x", key)
		} else if _, err := ParseBusRef(value); err != nil {
			a.find(Error, noConversation, "partition %d, stamp %d: %v", partition, binary.BigEndian.Uint64(key[len(start):]), err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	parts := n/a.chunk + 1
	for part := range parts {
		last := map[id.ConversationID]BusRef{}
		err := each(a.ctx, a.store, start, end, func(_, value []byte) error {
			ref, err := ParseBusRef(value)
			if err != nil || int(binary.BigEndian.Uint64(ref.Conversation[8:])%uint64(parts)) != part {
				return nil
			}
			if before, ok := last[ref.Conversation]; ok && ref.Epoch == before.Epoch {
				switch want := before.LastSeq() + 1; {
				case ref.FirstSeq > want:
					a.find(Error, ref.Conversation, "messages %d to %d were never put on the bus", want, ref.FirstSeq-1)
				case ref.FirstSeq < want:
					a.find(Info, ref.Conversation, "messages from %d on were put on the bus twice", ref.FirstSeq)
				}
			}
			last[ref.Conversation] = ref
			return nil
		})
		if err != nil {
			return err
		}
		if err := a.busHeads(last); err != nil {
			return err
		}
	}
	return nil
}

// busHeads compares the last reference of each conversation with its head.
func (a *auditor) busHeads(last map[id.ConversationID]BusRef) error {
	refs := make([]BusRef, 0, sidesAtOnce)
	flush := func() error {
		raws, err := multiGet(a.ctx, a.store, len(refs), func(dst []byte, i int) []byte { return a.keys.Head(dst, refs[i].Conversation) })
		if err != nil {
			return err
		}
		for i, ref := range refs {
			h, err := Head{}, error(nil)
			if raws[i] != nil {
				h, err = ParseHead(raws[i])
			}
			switch {
			case err != nil: // said where the conversation is audited
			case ref.LastSeq() > h.LastSeq:
				a.find(Error, ref.Conversation, "messages up to %d were put on the bus, the last is %d", ref.LastSeq(), h.LastSeq)
			case ref.LastSeq() < h.LastSeq:
				a.find(Warning, ref.Conversation, "messages %d to %d are not on the bus", ref.LastSeq()+1, h.LastSeq)
			}
		}
		refs = refs[:0]
		return nil
	}
	for _, ref := range last {
		if refs = append(refs, ref); len(refs) == sidesAtOnce {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}
