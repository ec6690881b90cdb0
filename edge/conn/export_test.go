package conn

// SetClock makes nanoseconds since the start come from now. For before the first connection.
func (e *Edge) SetClock(now func() int64) { e.now = now }
