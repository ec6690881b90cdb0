package log

// Held returns how many events, and bytes of messages, are kept in memory for consumers
// that have not taken them yet.
func (l *Log) Held() (events, bytes int) {
	l.ring.mu.Lock()
	defer l.ring.mu.Unlock()
	return int(l.ring.tail - l.ring.head), l.ring.bytes
}
