package main

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/config"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/metrics"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/connector/webhook"
	"github.com/weirsync/weir/schema"
	"github.com/weirsync/weir/schema/registry"
)

// calledBack reports whether a connector's vendor can call back: its profile says how, and the connector has one of the
// secrets. why says what is missing.
func calledBack(k *config.Connector, p *profile.Compiled) (ok bool, why string) {
	if p.Webhooks == nil {
		return false, "its profile has no webhooks"
	}
	for _, s := range p.Webhooks.Secrets {
		if _, ok := k.Secrets[s]; ok {
			return true, ""
		}
	}
	return false, "it has no secret " + strings.Join(p.Webhooks.Secrets, " or ")
}

// startWebhooks listens for vendors' calls, if the config says so and there is a connector that is called back. stop
// lets the calls at hand end and waits for it.
func (c *runCmd) startWebhooks(ctx context.Context, p *runPlan, kc kafka.Config, store checkpoint.Store, registry prometheus.Registerer, log *slog.Logger) (stop func(), err error) {
	listen := p.cfg.Webhooks.Listen
	if listen == "" {
		return func() {}, nil
	}
	cfg := webhook.Config{Store: store, MaxInFlight: p.cfg.Webhooks.MaxInFlight, BodyBytesMax: int64(p.cfg.Webhooks.BodyMax), Log: log, Now: c.Now}
	var names []string
	for _, r := range p.runs {
		if r.Config.DryRun() {
			continue
		}
		if !r.Facts {
			_, why := calledBack(r.Config, r.Profile)
			log.Info("no webhooks of this connector", "connector", r.Name, "why", why)
			continue
		}
		names = append(names, r.Name)
		cfg.Sources = append(cfg.Sources, &webhook.Source{
			Connector: r.Name, Vendor: r.Profile.Vendor, Hooks: r.Profile.Webhooks, Secret: r.live.secret,
			Count: metrics.Webhooks(prometheus.WrapRegistererWith(prometheus.Labels{"connector": r.Name}, registry), r.Profile.Vendor),
		})
	}
	if len(names) == 0 {
		log.Warn("webhooks.listen is set, and no connector is called back; nothing listens there", "listen", listen)
		return func() {}, nil
	}
	if cfg.SchemaID, err = factSchemaID(p.cfg); err != nil {
		return nil, yours("schema.registry", err, "")
	}
	kc.ProduceTimeout = webhook.WaitDefault // what no call waits for any more is not written much later
	producer, err := kafka.NewProducer(kc)
	if err != nil {
		return nil, environment("connect to Kafka", err, "")
	}
	cfg.Producer = producer
	server, err := webhook.New(cfg)
	if err != nil {
		producer.Close()
		return nil, err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", listen)
	if err != nil {
		producer.Close()
		return nil, &failure{exitEnv, "listen on webhooks.listen " + listen, err, "is another weir running? choose another port"}
	}
	log.Info("webhooks listener", "url", "http://"+l.Addr().String()+webhook.PathPrefix, "connectors", names)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // it ends after the connectors, when stop says so
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(ctx, l); err != nil {
			log.Error("the webhooks listener ended", "error", err.Error())
		}
	}()
	return sync.OnceFunc(func() {
		cancel()
		<-done
		producer.Close()
	}), nil
}

// factSchemaID registers the fact's schema with the first fact of each topic, where a registry is configured.
func factSchemaID(cfg *config.Config) (func(context.Context, string) (schema.ID, error), error) {
	if cfg.Schema.Embedded() {
		return nil, nil
	}
	client, err := registry.New(registry.Options{URLs: []string{cfg.Schema.Registry}})
	if err != nil {
		return nil, err
	}
	fact, err := webhook.FactSchema()
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	ids := map[string]schema.ID{}
	return func(ctx context.Context, topic string) (schema.ID, error) {
		mu.Lock()
		defer mu.Unlock() // held over the request on purpose: all who ask meanwhile share the answer
		if id, ok := ids[topic]; ok {
			return id, nil
		}
		id, err := client.Register(ctx, schema.Subject(topic+"-value"), fact.Text)
		if err == nil {
			ids[topic] = id
		}
		return id, err
	}, nil
}

// webhooks looks at the listener, and at the secrets that calls are signed with.
func (k *checker) webhooks(cfg *config.Config, compiled map[string]*profile.Compiled) {
	var served []string
	for _, name := range cfg.Names() {
		p, conn := compiled[name], cfg.Connectors[name]
		if p == nil {
			continue
		}
		check := "connector " + name + " webhooks"
		ok, why := calledBack(conn, p)
		switch {
		case ok && cfg.Webhooks.Listen == "":
			k.warn(check, "set webhooks.listen, such as 127.0.0.1:8081", "it has a secret for webhooks, and nothing listens for them")
			continue
		case !ok && cfg.Webhooks.Listen != "" && p.Webhooks != nil:
			k.warn(check, "add connectors."+name+".secrets."+p.Webhooks.Secrets[0]+", or leave it if the vendor does not call back", "no webhooks: %s", why)
			continue
		case !ok:
			continue
		}
		served = append(served, webhook.PathPrefix+name)
		for _, s := range p.Webhooks.Secrets {
			secret, ok := conn.Secrets[s]
			if !ok {
				continue
			}
			value, err := secret.Value()
			if err != nil {
				continue // reported with the secrets
			}
			switch key, err := webhook.Key(p.Webhooks, value); {
			case err != nil:
				k.fail(exitYours, check, "", "secret %s: %s", s, err)
			case len(key) < webhookKeyBytesMin:
				k.warn(check, "ask the vendor for a longer one", "secret %s has %d bytes: a key below %d can be guessed", s, len(key), webhookKeyBytesMin)
			default:
				k.ok(check, "secret %s has the form that the profile says", s)
			}
		}
	}
	if cfg.Webhooks.Listen == "" {
		return
	}
	slices.Sort(served)
	if len(served) == 0 {
		k.warn("webhooks", "remove it, or give a connector the secret that its vendor signs with", "webhooks.listen is set, and no connector is called back")
		return
	}
	k.ok("webhooks", "%s takes calls at %s", cfg.Webhooks.Listen, strings.Join(served, ", "))
}

// webhookKeyBytesMin: 128 bits, the least that RFC 2104 and vendors recommend for HMAC keys.
const webhookKeyBytesMin = 16
