package tui

// memberCount is how many are in a group, 0 if that isn't known.
func (m *Model) memberCount(c *conversation) int { return len(c.members) }

// calls is how many unread messages of c call the user.
func (m *Model) calls(c *conversation) int { return 0 }
