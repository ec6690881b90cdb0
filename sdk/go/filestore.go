package gochat

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/gochat-im/gochat/protocol/id"
)

// A FileStore is one append-only file: fileMagic, then records
//
//	length u32 | CRC-32C u32, of what follows | kind u8 | payload
//
// little-endian. Reading ends at the first record that isn't whole: what a crash cut off.
// When most of the file is out of date it is written anew beside itself and renamed.
const (
	fileMagic = "GoChat client 1\n"

	recordOutgoing = 1 // id, conversation, base uvarint, flags u8 (1: interactive), body
	recordDrop     = 2 // id
	recordSession  = 3 // JSON
	recordCursor   = 4 // conversation, applied uvarint, head uvarint
	recordReset    = 5
	recordReplace  = 6 // old id, then as recordOutgoing

	maxRecord  = 1 << 20
	compactMin = 1 << 20 // bytes below which a file isn't rewritten
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errForeign = errors.New("not a client's store, or one of a later version")

// ErrStoreInUse is returned when another process has the file open.
var ErrStoreInUse = errors.New("another process uses this store")

// FileStore is a Store in one file, which only one process may have open.
type FileStore struct {
	mu   sync.Mutex
	path string
	lock *os.File
	f    *os.File
	size int64 // of the file's whole records
	live int64 // the size after it was last written anew
	st   State
	err  error // the file could not be brought back to whole records: nothing is written any more
	buf  []byte
}

// OpenFileStore opens the store at path, making it and its directory if need be (0600 and
// 0700: it holds a resume token and unsent messages).
func OpenFileStore(path string) (*FileStore, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("opening the client's store: %w", err)
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the client's store: %w", err)
	}
	if err := lockFile(lock); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	s := &FileStore{path: path, lock: lock, st: State{Cursors: map[id.ConversationID]Cursor{}}}
	if err := s.open(); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("opening the client's store %s: %w", path, err)
	}
	return s, nil
}

func (s *FileStore) open() error {
	f, err := os.OpenFile(s.path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	s.f = f
	if err := s.read(); err != nil {
		_ = f.Close()
		return err
	}
	return nil
}

// read loads the file and cuts it behind its last whole record.
func (s *FileStore) read() error {
	info, err := s.f.Stat()
	if err != nil {
		return err
	}
	if info.Size() < int64(len(fileMagic)) { // new, or its making was cut off
		made := make([]byte, info.Size())
		if _, err := s.f.ReadAt(made, 0); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if !strings.HasPrefix(fileMagic, string(made)) {
			return errForeign
		}
		if err := s.f.Truncate(0); err != nil {
			return err
		}
		if _, err := s.f.WriteAt([]byte(fileMagic), 0); err != nil {
			return err
		}
		s.size = int64(len(fileMagic))
		return errors.Join(s.f.Sync(), syncDir(filepath.Dir(s.path)))
	}
	r := bufio.NewReader(s.f)
	head := make([]byte, len(fileMagic))
	if _, err := io.ReadFull(r, head); err != nil {
		return err
	}
	if string(head) != fileMagic {
		return errForeign
	}
	s.size = int64(len(fileMagic))
	for {
		kind, payload, n, err := readRecord(r)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		if err := s.apply(kind, payload); err != nil {
			return fmt.Errorf("record at byte %d: %w", s.size, err)
		}
		s.size += n
	}
	if s.size < info.Size() {
		if err := s.f.Truncate(s.size); err != nil {
			return err
		}
	}
	s.live = s.size
	return nil
}

// readRecord returns the next record and its length in the file; 0 if it isn't whole.
func readRecord(r io.Reader) (kind byte, payload []byte, n int64, err error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, 0, onlyEOF(err)
	}
	size := binary.LittleEndian.Uint32(head[:])
	if size == 0 || size > maxRecord {
		return 0, nil, 0, nil
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, nil, 0, onlyEOF(err)
	}
	if crc32.Checksum(b, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
		return 0, nil, 0, nil
	}
	return b[0], b[1:], int64(len(head)) + int64(size), nil
}

func onlyEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

var errRecord = errors.New("a record that can't be read")

// apply acts on one whole record.
func (s *FileStore) apply(kind byte, b []byte) error {
	switch kind {
	case recordOutgoing:
		o, ok := parseOutgoing(b)
		if !ok {
			return errRecord
		}
		s.st.put(o)
	case recordReplace:
		if len(b) < 16 {
			return errRecord
		}
		o, ok := parseOutgoing(b[16:])
		if !ok {
			return errRecord
		}
		s.st.replace(id.ClientMsgID(b[:16]), o)
	case recordDrop:
		if len(b) != 16 {
			return errRecord
		}
		s.st.drop(id.ClientMsgID(b))
	case recordSession:
		var v Session
		if err := json.Unmarshal(b, &v); err != nil {
			return errRecord
		}
		s.st.Session = v
	case recordCursor:
		if len(b) < 16 {
			return errRecord
		}
		applied, n := binary.Uvarint(b[16:])
		if n <= 0 {
			return errRecord
		}
		head, m := binary.Uvarint(b[16+n:])
		if m <= 0 {
			return errRecord
		}
		s.st.Cursors[id.ConversationID(b[:16])] = Cursor{applied, head}
	case recordReset:
		clear(s.st.Cursors)
	default:
		return fmt.Errorf("kind %d: %w", kind, errRecord)
	}
	return nil
}

func appendOutgoing(b []byte, o *Outgoing) []byte {
	b = append(append(b, o.ID[:]...), o.Conversation[:]...)
	b = binary.AppendUvarint(b, o.Base)
	flags := byte(0)
	if o.Interactive {
		flags = 1
	}
	return append(append(b, flags), o.Body...)
}

func parseOutgoing(b []byte) (o Outgoing, ok bool) {
	if len(b) < 34 {
		return o, false
	}
	copy(o.ID[:], b)
	copy(o.Conversation[:], b[16:])
	base, n := binary.Uvarint(b[32:])
	if n <= 0 || len(b) <= 32+n {
		return o, false
	}
	o.Base, o.Interactive = base, b[32+n]&1 != 0
	o.Body = append([]byte(nil), b[33+n:]...)
	return o, true
}

func appendCursor(b []byte, c id.ConversationID, cur Cursor) []byte {
	b = append(b, c[:]...)
	return binary.AppendUvarint(binary.AppendUvarint(b, cur.Applied), cur.Head)
}

// begin starts a record in dst; end finishes it.
func begin(dst []byte, kind byte) []byte { return append(dst, 0, 0, 0, 0, 0, 0, 0, 0, kind) }

func end(dst []byte, start int) []byte {
	b := dst[start+8:]
	binary.LittleEndian.PutUint32(dst[start:], uint32(len(b)))
	binary.LittleEndian.PutUint32(dst[start+4:], crc32.Checksum(b, castagnoli))
	return dst
}

// write appends one record, built by fill, and applies it. The caller holds mu.
func (s *FileStore) write(kind byte, sync bool, fill func([]byte) []byte) error {
	if s.err != nil {
		return s.err
	}
	s.buf = end(fill(begin(s.buf[:0], kind)), 0)
	if len(s.buf) > maxRecord {
		return fmt.Errorf("storing a record of %d bytes: too large", len(s.buf))
	}
	if _, err := s.f.WriteAt(s.buf, s.size); err != nil {
		return s.undo(fmt.Errorf("writing to the client's store: %w", err))
	}
	if sync {
		if err := s.f.Sync(); err != nil {
			return s.undo(fmt.Errorf("syncing the client's store: %w", err))
		}
	}
	if err := s.apply(kind, s.buf[9:]); err != nil {
		return err
	}
	s.size += int64(len(s.buf))
	if s.size > compactMin && s.size > 4*s.live {
		if err := s.compact(); err != nil && s.err == nil {
			s.live = s.size // try again when it has grown as much again
		}
	}
	return nil
}

// undo cuts off what was written of a record.
func (s *FileStore) undo(err error) error {
	if terr := s.f.Truncate(s.size); terr != nil {
		s.err = errors.Join(err, terr)
		return s.err
	}
	return err
}

// compact writes what is live to a new file that takes the old one's place.
func (s *FileStore) compact() error {
	b := []byte(fileMagic)
	add := func(kind byte, fill func([]byte) []byte) {
		start := len(b)
		b = end(fill(begin(b, kind)), start)
	}
	session, err := json.Marshal(s.st.Session)
	if err != nil {
		return err
	}
	add(recordSession, func(b []byte) []byte { return append(b, session...) })
	for c, cur := range s.st.Cursors {
		add(recordCursor, func(b []byte) []byte { return appendCursor(b, c, cur) })
	}
	for i := range s.st.Outbox {
		add(recordOutgoing, func(b []byte) []byte { return appendOutgoing(b, &s.st.Outbox[i]) })
	}
	f, err := os.OpenFile(s.path+".new", os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync()); err == nil {
		err = os.Rename(s.path+".new", s.path)
	}
	if err != nil {
		_ = f.Close()
		_ = os.Remove(s.path + ".new")
		return err
	}
	_ = s.f.Close()
	s.f, s.size, s.live = f, int64(len(b)), int64(len(b))
	if err := syncDir(filepath.Dir(s.path)); err != nil {
		s.err = fmt.Errorf("syncing the directory of the client's store: %w", err)
		return s.err
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

func (s *FileStore) Load() (State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st.clone(), s.err
}

func (s *FileStore) PutOutgoing(o Outgoing) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.write(recordOutgoing, true, func(b []byte) []byte { return appendOutgoing(b, &o) })
}

func (s *FileStore) ReplaceOutgoing(old id.ClientMsgID, o Outgoing) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.write(recordReplace, true, func(b []byte) []byte { return appendOutgoing(append(b, old[:]...), &o) })
}

func (s *FileStore) DropOutgoing(c id.ClientMsgID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.write(recordDrop, false, func(b []byte) []byte { return append(b, c[:]...) })
}

func (s *FileStore) SetSession(v Session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v == s.st.Session {
		return nil
	}
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	// Synced: the mark must not outlive the cursors before it.
	return s.write(recordSession, true, func(b []byte) []byte { return append(b, data...) })
}

func (s *FileStore) SetCursor(c id.ConversationID, cur Cursor) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.write(recordCursor, false, func(b []byte) []byte { return appendCursor(b, c, cur) })
}

func (s *FileStore) ResetCursors() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.write(recordReset, true, func(b []byte) []byte { return b })
}

// Close releases the file. Closing it twice is harmless.
func (s *FileStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.f == nil {
		return nil
	}
	err := errors.Join(s.f.Sync(), s.f.Close(), s.lock.Close())
	s.f, s.err = nil, errors.New("the client's store is closed")
	return err
}
