-- Webhook events whose facts are in Kafka. seq grows with every insert, so the oldest are at its low end.
CREATE TABLE nonces (
  seq       INTEGER PRIMARY KEY AUTOINCREMENT,
  connector TEXT NOT NULL,
  id        TEXT NOT NULL,
  until     INTEGER NOT NULL,
  UNIQUE (connector, id)
);
CREATE INDEX nonces_until ON nonces (until);
