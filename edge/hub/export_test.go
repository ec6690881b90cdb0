package hub

// SetClock makes nanoseconds since the start come from now. For before the first connection.
func (h *Hub) SetClock(now func() int64) { h.nanos = now }
