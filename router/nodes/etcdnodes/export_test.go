package etcdnodes

// Worker returns the node's worker number; 0 before Join.
func (s *Source) Worker() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.self.number.n
}
