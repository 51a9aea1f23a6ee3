-- A row of the ledger is its key, its outcome, and where the JSON text of all else is. The texts of a transaction lie
-- one after the other in chunks: a column for each field cost more to bind and to store than the text does to write, and
-- rows of that size split pages of the tree, which small ones seldom do and a chunk at the end of its table never does.
-- A field that is empty is not in the text. at and occurred_at are Unix ms; event_hash is signed, as SQLite's numbers are.
DROP VIEW outcomes;
ALTER TABLE ledger RENAME TO ledger_old;
CREATE TABLE chunks (
  id    INTEGER PRIMARY KEY,
  texts BLOB NOT NULL
);
CREATE TABLE ledger (
  part    INTEGER NOT NULL REFERENCES partitions (id),
  off     INTEGER NOT NULL,
  route   INTEGER NOT NULL REFERENCES words (id),
  outcome INTEGER NOT NULL,
  chunk   INTEGER NOT NULL REFERENCES chunks (id),
  start   INTEGER NOT NULL, -- the first byte of its text, from 1 as substr counts
  size    INTEGER NOT NULL, -- bytes
  PRIMARY KEY (part, off, route)
) WITHOUT ROWID;

-- One chunk for each row. json_patch leaves out what is NULL.
INSERT INTO chunks (id, texts)
SELECT row_number() OVER (ORDER BY l.part, l.off, l.route), CAST(json_patch('{}', json_object(
  'cause', (SELECT text FROM words WHERE id = l.cause), 'at', l.at, 'leader_epoch', nullif(l.leader_epoch, 0),
  'event_hash', nullif(l.event_hash, 0), 'event_id', l.event_id, 'type', l.type, 'source', l.source,
  'correlation', l.correlation, 'tenant', l.tenant, 'entity', (SELECT text FROM words WHERE id = l.entity), 'key', l.key,
  'version', nullif(l.version, 0), 'operation', (SELECT text FROM words WHERE id = l.operation),
  'occurred_at', l.occurred_at, 'schema', (SELECT text FROM words WHERE id = l.schema), 'reason', l.reason,
  'rule', l.rule, 'path', l.path, 'superseded_by', l.superseded_by, 'vendor_id', l.vendor_id,
  'generation', nullif(l.generation, 0), 'mapping', (SELECT text FROM words WHERE id = l.mapping),
  'plan', json(l.plan), 'attempts', json(l.attempts), 'past', json(l.past))) AS BLOB)
FROM ledger_old l ORDER BY 1;
INSERT INTO ledger (part, off, route, outcome, chunk, start, size)
SELECT l.part, l.off, l.route, l.outcome, l.n, 1, length(c.texts)
FROM (SELECT part, off, route, outcome, row_number() OVER (ORDER BY part, off, route) AS n FROM ledger_old) l
JOIN chunks c ON c.id = l.n;
DROP TABLE ledger_old;

-- What became of every record, in plain words, for SQL.
CREATE VIEW outcomes AS
SELECT c.text AS connector, p.topic, p.idx AS partition, l.off AS offset, r.text AS route,
  CASE l.outcome WHEN 1 THEN 'delivered' WHEN 2 THEN 'accepted' WHEN 3 THEN 'unchanged' WHEN 4 THEN 'superseded'
    WHEN 5 THEN 'folded' WHEN 6 THEN 'ignored' WHEN 7 THEN 'parked' WHEN 8 THEN 'dead_lettered'
    WHEN 9 THEN 'skipped' END AS outcome,
  l.row ->> 'cause' AS cause, l.row ->> 'reason' AS reason, l.row ->> 'rule' AS rule, l.row ->> 'path' AS path,
  l.row ->> 'event_id' AS event_id, l.row ->> 'type' AS type, l.row ->> 'source' AS source,
  l.row ->> 'correlation' AS correlation, l.row ->> 'tenant' AS tenant, l.row ->> 'entity' AS entity,
  l.row ->> 'key' AS key, coalesce(l.row ->> 'version', 0) AS version, l.row ->> 'operation' AS operation,
  l.row ->> 'schema' AS schema, l.row ->> 'superseded_by' AS superseded_by, l.row ->> 'vendor_id' AS vendor_id,
  coalesce(l.row ->> 'generation', 0) AS generation, l.row ->> 'mapping' AS mapping, l.row -> 'plan' AS plan,
  l.row -> 'attempts' AS attempts,
  strftime('%Y-%m-%dT%H:%M:%fZ', (l.row ->> 'occurred_at') / 1000.0, 'unixepoch') AS occurred_at,
  strftime('%Y-%m-%dT%H:%M:%fZ', (l.row ->> 'at') / 1000.0, 'unixepoch') AS at
FROM (SELECT part, off, route, outcome, CAST(substr(texts, start, size) AS TEXT) AS row FROM ledger JOIN chunks ON id = chunk) l
JOIN partitions p ON p.id = l.part
JOIN words c ON c.id = p.connector
JOIN words r ON r.id = l.route;
