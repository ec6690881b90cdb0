package edge

import (
	"crypto/tls"
	"fmt"

	"github.com/gochat-im/gochat/edge/certs"
	"github.com/gochat-im/gochat/node/config"
)

// openCert reads the certificate of a section of the configuration; nil if it names none.
func openCert(section string, t config.TLS) (*certs.Source, error) {
	if !t.On() {
		return nil, nil
	}
	s, err := certs.Open(t.Certificate())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", section, err)
	}
	return s, nil
}

// listenerTLS is what a listener with the certificate is given; nil without one.
func listenerTLS(s *certs.Source) *tls.Config {
	if s == nil {
		return nil
	}
	return s.TLS()
}
