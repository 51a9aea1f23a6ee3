package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/weirsync/weir/connector/config"
	"github.com/weirsync/weir/connector/kafka"
)

// pingTimeout bounds the first question to Kafka: long enough for a slow TLS login, short enough for a person.
const pingTimeout = 10 * time.Second

// kafkaConfig is the config's Kafka as the client takes it; TLS files are read now, the password when a connection
// is made.
func (a *app) kafkaConfig(k config.Kafka) (kafka.Config, error) {
	c := kafka.Config{Brokers: k.Brokers, ClientID: k.ClientID, SessionTimeout: k.SessionTimeout.D()}
	if k.SASL != nil {
		c.SASL = &kafka.SASL{Mechanism: k.SASL.Mechanism, User: k.SASL.User, Password: k.SASL.Password.Value}
	}
	if k.TLS == nil {
		return c, nil
	}
	c.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	if k.TLS.CA != "" {
		pem, err := a.readFile(k.TLS.CA)
		if err != nil {
			return c, yours("kafka.tls.ca", err, pemHint)
		}
		c.TLS.RootCAs = x509.NewCertPool()
		if !c.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return c, yours("kafka.tls.ca "+k.TLS.CA, errors.New("holds no certificate"), "it must be PEM: -----BEGIN CERTIFICATE-----")
		}
	}
	if k.TLS.Cert != "" {
		cert, err := a.readFile(k.TLS.Cert)
		if err != nil {
			return c, yours("kafka.tls.cert", err, pemHint)
		}
		key, err := a.readFile(k.TLS.Key)
		if err != nil {
			return c, yours("kafka.tls.key", err, pemHint)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return c, yours("kafka.tls.cert "+k.TLS.Cert, err, "cert and key must be PEM and belong together")
		}
		c.TLS.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

const pemHint = "give the path of a PEM file; a relative one is relative to the config's folder"

// kafkaHint is what to look at when Kafka does not answer.
func kafkaHint(err error, k config.Kafka) string {
	_, notTLS := errors.AsType[tls.RecordHeaderError](err)
	slow, late := errors.AsType[net.Error](err)
	_, unknown := errors.AsType[*tls.CertificateVerificationError](err)
	switch {
	case notTLS:
		return "kafka.tls is set, and that port does not speak TLS: use the broker's TLS port, or remove kafka.tls"
	case unknown:
		return "the broker's certificate is not trusted: set kafka.tls.ca to its authority, or use the name that is in the certificate"
	case errors.Is(err, io.EOF) && k.SASL != nil:
		return "the broker closed the connection: is kafka.sasl right (mechanism, user, password), and does that port want TLS?"
	case errors.Is(err, io.EOF):
		return "the broker closed the connection: that port may want kafka.tls or kafka.sasl"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: is Kafka running, and is kafka.brokers right?"
	case errors.Is(err, context.DeadlineExceeded) || late && slow.Timeout():
		return "no answer in time: is kafka.brokers right, does a firewall drop the packets, does that port want TLS or none?"
	}
	return "is it running, are kafka.brokers, kafka.tls and kafka.sasl right? see weir check"
}

func (a *app) readFile(path string) ([]byte, error) {
	f, _, err := a.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 1<<20))
}

// connect makes an admin client and sees whether Kafka answers. The caller closes it.
func (a *app) connect(ctx context.Context, k config.Kafka) (*kafka.Admin, error) {
	c, err := a.kafkaConfig(k)
	if err != nil {
		return nil, err
	}
	admin, err := kafka.NewAdmin(c)
	if err != nil {
		return nil, environment("connect to Kafka", err, "")
	}
	if err := ping(ctx, admin); err != nil {
		admin.Close()
		return nil, environment("connect to Kafka", err, kafkaHint(err, k))
	}
	return admin, nil
}

// pingGrace is how long a question may take beyond its time.
const pingGrace = time.Second

// ping asks Kafka for a sign of life, within the time of ctx and pingGrace whatever happens: the client finishes a dial that it has
// begun, and one to a broker that is frozen takes until its own timeout.
func ping(ctx context.Context, admin *kafka.Admin) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	answer := make(chan error, 1)
	go func() {
		_, err := admin.Describe(ctx)
		answer <- err
	}()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
	}
	// The client's own last error says more, if it is about to come.
	select {
	case err := <-answer:
		return err
	case <-time.After(pingGrace):
		return fmt.Errorf("kafka does not answer: %w", ctx.Err())
	}
}

// A lagReport is what Kafka says of one connector's partitions.
type lagReport map[kafka.TP]kafka.Lag

// readLag reads group commits and log ranges of those of the topics that exist.
func readLag(ctx context.Context, admin *kafka.Admin, connector string, topics []string) (lagReport, error) {
	infos, err := admin.Topics(ctx, topics...)
	if err != nil {
		return nil, err
	}
	var exist []string
	for _, t := range topics {
		if infos[t].Exists {
			exist = append(exist, t)
		}
	}
	if len(exist) == 0 {
		return lagReport{}, nil
	}
	lags, err := admin.GroupLag(ctx, config.Group(connector), exist...)
	if err != nil {
		return nil, fmt.Errorf("topics %s: %w", strings.Join(exist, ", "), err)
	}
	return lags, nil
}
