-- Small ints stand for texts that repeat in every row. A word is never changed or removed.
CREATE TABLE words (
  id   INTEGER PRIMARY KEY,
  text TEXT NOT NULL UNIQUE
);

CREATE TABLE meta (
  name  TEXT PRIMARY KEY,
  value TEXT NOT NULL
) WITHOUT ROWID;

-- One row for each partition of each topic id that a connector ever owned: its cursor and its lease.
-- last: highest offset that has a ledger row or lies in a skip, -1 if none.
-- fresh: no partition of the topic had a mark when this one was first acquired.
CREATE TABLE partitions (
  id         INTEGER PRIMARY KEY,
  connector  INTEGER NOT NULL REFERENCES words (id),
  topic      TEXT NOT NULL,
  topic_id   BLOB NOT NULL,
  idx        INTEGER NOT NULL,
  epoch      INTEGER NOT NULL,
  owner      TEXT,
  owned_at   INTEGER,
  mark       INTEGER NOT NULL,
  horizon    INTEGER NOT NULL,
  lost_below INTEGER NOT NULL,
  mapping    TEXT,
  raised_at  INTEGER,
  last       INTEGER NOT NULL,
  fresh      INTEGER NOT NULL,
  UNIQUE (connector, topic, idx, topic_id)
);

-- The ledger: one row for each record and route. Its key grows with the offsets, so inserts stay at the end of
-- the tree; indexes on random keys are kept out of it (design section 15), see lookup_runs.
CREATE TABLE ledger (
  part          INTEGER NOT NULL REFERENCES partitions (id),
  off           INTEGER NOT NULL,
  route         INTEGER NOT NULL REFERENCES words (id),
  outcome       INTEGER NOT NULL,
  cause         INTEGER,
  at            INTEGER,
  leader_epoch  INTEGER NOT NULL,
  event_hash    INTEGER NOT NULL,
  event_id      TEXT,
  type          TEXT,
  source        TEXT,
  correlation   TEXT,
  tenant        TEXT,
  entity        INTEGER,
  key           TEXT,
  version       INTEGER NOT NULL,
  operation     INTEGER,
  occurred_at   INTEGER,
  schema        INTEGER,
  reason        TEXT,
  rule          TEXT,
  path          TEXT,
  superseded_by TEXT,
  vendor_id     TEXT,
  generation    INTEGER NOT NULL,
  mapping       INTEGER,
  plan          TEXT,
  attempts      TEXT,
  past          TEXT, -- ids of the parked outcomes that this one replaced: a JSON array
  PRIMARY KEY (part, off, route)
) WITHOUT ROWID;

CREATE TABLE counts (
  connector INTEGER NOT NULL,
  route     INTEGER NOT NULL,
  outcome   INTEGER NOT NULL,
  n         INTEGER NOT NULL,
  PRIMARY KEY (connector, route, outcome)
) WITHOUT ROWID;

-- Facts about attempts that came apart from an outcome.
CREATE TABLE attempts (
  part    INTEGER NOT NULL,
  off     INTEGER NOT NULL,
  route   INTEGER NOT NULL,
  n       INTEGER NOT NULL,
  at      INTEGER NOT NULL,
  attempt TEXT NOT NULL,
  PRIMARY KEY (part, off, route, n, at, attempt)
) WITHOUT ROWID;

CREATE TABLE begins (
  part        INTEGER NOT NULL,
  off         INTEGER NOT NULL,
  route       INTEGER NOT NULL,
  step        TEXT NOT NULL,
  operation   TEXT,
  key         TEXT,
  fingerprint TEXT,
  generation  INTEGER NOT NULL,
  mapping     TEXT,
  at          INTEGER,
  epoch       INTEGER NOT NULL,
  event       TEXT,
  PRIMARY KEY (part, off, route, step)
) WITHOUT ROWID;

CREATE TABLE plans (
  part    INTEGER NOT NULL,
  off     INTEGER NOT NULL,
  route   INTEGER NOT NULL,
  plan    TEXT NOT NULL,
  mapping TEXT,
  at      INTEGER,
  event   TEXT,
  PRIMARY KEY (part, off, route)
) WITHOUT ROWID;

-- present: has a vendor id or is deleted, so nobody needs to wait for it.
CREATE TABLE states (
  connector INTEGER NOT NULL,
  entity    INTEGER NOT NULL,
  key       TEXT NOT NULL,
  tenant    TEXT,
  present   INTEGER NOT NULL,
  state     TEXT NOT NULL,
  PRIMARY KEY (connector, entity, key)
) WITHOUT ROWID;

CREATE TABLE waiters (
  part       INTEGER NOT NULL,
  off        INTEGER NOT NULL,
  route      INTEGER NOT NULL,
  connector  INTEGER NOT NULL,
  tenant     TEXT NOT NULL,
  ref_entity INTEGER NOT NULL,
  ref_key    TEXT NOT NULL,
  entity     INTEGER NOT NULL,
  key        TEXT NOT NULL,
  since      INTEGER,
  parked     INTEGER NOT NULL,
  woken      INTEGER NOT NULL,
  PRIMARY KEY (part, off, route)
) WITHOUT ROWID;
CREATE INDEX waiters_referent ON waiters (connector, ref_entity, ref_key, tenant) WHERE woken = 0;
CREATE INDEX waiters_woken ON waiters (connector, since) WHERE woken = 1;

CREATE TABLE parked (
  part           INTEGER NOT NULL,
  off            INTEGER NOT NULL,
  route          INTEGER NOT NULL,
  connector      INTEGER NOT NULL,
  entity         INTEGER NOT NULL,
  key            TEXT NOT NULL,
  tenant         TEXT,
  event_id       TEXT,
  version        INTEGER NOT NULL,
  cause          TEXT,
  reason         TEXT,
  guidance       TEXT,
  attempts       INTEGER NOT NULL,
  at             INTEGER,
  state          TEXT NOT NULL,
  since          INTEGER,
  by             TEXT,
  generation     INTEGER NOT NULL,
  copy_topic     TEXT,
  copy_partition INTEGER NOT NULL,
  copy_offset    INTEGER NOT NULL,
  supersedes     TEXT,
  PRIMARY KEY (part, off, route)
) WITHOUT ROWID;
CREATE INDEX parked_state ON parked (state, connector);
CREATE INDEX parked_key ON parked (key);
CREATE INDEX parked_event ON parked (event_id);

CREATE TABLE skips (
  part      INTEGER NOT NULL,
  from_off  INTEGER NOT NULL,
  to_off    INTEGER NOT NULL,
  epoch     INTEGER NOT NULL,
  reason    TEXT,
  by        TEXT,
  at        INTEGER,
  PRIMARY KEY (part, from_off, to_off)
) WITHOUT ROWID;

CREATE TABLE mappings (
  version TEXT PRIMARY KEY,
  text    BLOB NOT NULL
);

CREATE TABLE status (
  connector TEXT NOT NULL,
  instance  TEXT NOT NULL,
  at        INTEGER,
  json      BLOB,
  PRIMARY KEY (connector, instance)
) WITHOUT ROWID;

CREATE TABLE audit (
  id        INTEGER PRIMARY KEY,
  at        INTEGER,
  actor     TEXT,
  action    TEXT,
  connector TEXT,
  target    TEXT,
  reason    TEXT,
  detail    TEXT
);

-- The runs of the lookup tables lookup_YYYYMMDD, see lookup.go.
CREATE TABLE lookup_runs (
  day     INTEGER NOT NULL, -- YYYYMMDD, UTC, of the commit
  run     INTEGER NOT NULL,
  buckets INTEGER NOT NULL,
  entries INTEGER NOT NULL,
  PRIMARY KEY (day, run)
) WITHOUT ROWID;

-- What became of every record, in plain words, for SQL.
CREATE VIEW outcomes AS
SELECT c.text AS connector, p.topic, p.idx AS partition, l.off AS offset, r.text AS route,
  CASE l.outcome WHEN 1 THEN 'delivered' WHEN 2 THEN 'accepted' WHEN 3 THEN 'unchanged' WHEN 4 THEN 'superseded'
    WHEN 5 THEN 'folded' WHEN 6 THEN 'ignored' WHEN 7 THEN 'parked' WHEN 8 THEN 'dead_lettered'
    WHEN 9 THEN 'skipped' END AS outcome,
  ca.text AS cause, l.reason, l.rule, l.path, l.event_id, l.type, l.source, l.correlation, l.tenant,
  e.text AS entity, l.key, l.version, o.text AS operation, s.text AS schema, l.superseded_by, l.vendor_id,
  l.generation, m.text AS mapping, l.plan, l.attempts,
  strftime('%Y-%m-%dT%H:%M:%fZ', l.occurred_at / 1000.0, 'unixepoch') AS occurred_at,
  strftime('%Y-%m-%dT%H:%M:%fZ', l.at / 1000.0, 'unixepoch') AS at
FROM ledger l
JOIN partitions p ON p.id = l.part
JOIN words c ON c.id = p.connector
JOIN words r ON r.id = l.route
LEFT JOIN words ca ON ca.id = l.cause
LEFT JOIN words e ON e.id = l.entity
LEFT JOIN words o ON o.id = l.operation
LEFT JOIN words s ON s.id = l.schema
LEFT JOIN words m ON m.id = l.mapping;
