-- Accepted records of which the vendor has not said yet how they ended; due is until when it should, in Unix ms. due 0: it
-- has said so before the record had its outcome.
CREATE TABLE unconfirmed (
  part      INTEGER NOT NULL,
  off       INTEGER NOT NULL,
  route     INTEGER NOT NULL,
  connector INTEGER NOT NULL,
  entity    INTEGER NOT NULL,
  key       TEXT NOT NULL,
  event_id  TEXT,
  vendor_id TEXT,
  since     INTEGER,
  due       INTEGER NOT NULL,
  PRIMARY KEY (part, off, route)
) WITHOUT ROWID;
CREATE INDEX unconfirmed_due ON unconfirmed (connector, due);
