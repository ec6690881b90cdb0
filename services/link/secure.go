package link

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// MinKey is the least length of a cluster key, in bytes.
const MinKey = 32

// errStranger is told to whoever can't prove to hold the cluster key.
var errStranger = errors.New("the peer is no node of this cluster")

// Keys are the cluster's keys. A node shows the first and takes any of them from others, so a
// key is replaced in three rounds: accepted everywhere, shown everywhere, the old one removed.
type Keys [][]byte

// Validate reports what is wrong with the keys, without quoting any.
func (k Keys) Validate() error {
	if len(k) == 0 {
		return errors.New("no cluster key")
	}
	for _, key := range k {
		if len(key) < MinKey {
			return fmt.Errorf("a cluster key is shorter than %d bytes", MinKey)
		}
	}
	return nil
}

// signer is the Ed25519 key that follows from a cluster key.
func signer(key []byte) ed25519.PrivateKey {
	m := hmac.New(sha256.New, key)
	m.Write([]byte("gochat calls between nodes 1"))
	return ed25519.NewKeyFromSeed(m.Sum(nil))
}

// TLS returns the configurations of both ends of a connection between nodes: TLS 1.3, in which
// each end proves by its signature over the handshake that it holds one of the cluster's keys. Nothing
// else about the certificates counts, neither names nor times. What one connection proves is of no use
// on another one.
func (k Keys) TLS() (server, client *tls.Config, err error) {
	if err := k.Validate(); err != nil {
		return nil, nil, err
	}
	var known []ed25519.PublicKey
	for _, key := range k {
		known = append(known, signer(key).Public().(ed25519.PublicKey))
	}
	own := signer(k[0])
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gochat node"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, own.Public(), own)
	if err != nil {
		return nil, nil, fmt.Errorf("making the certificate of the cluster key: %w", err)
	}
	verify := func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) > 0 {
			if shown, ok := cs.PeerCertificates[0].PublicKey.(ed25519.PublicKey); ok {
				for _, pub := range known {
					if pub.Equal(shown) {
						return nil
					}
				}
			}
		}
		return errStranger
	}
	base := tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: own}},
		VerifyConnection: verify, NextProtos: []string{"gochat-node/1"},
		SessionTicketsDisabled: true, // an idle connection has nothing to be read, by which a dead one is told
	}
	server, client = base.Clone(), base.Clone()
	server.ClientAuth = tls.RequireAnyClientCert
	client.InsecureSkipVerify = true // VerifyConnection looks at the one thing that counts
	return server, client, nil
}
