package account

// KeyID returns the kid of the tokens that are signed now.
func (k *Keys) KeyID() string { return k.kid }
