-- The request that a begun record shares with others, as JSON (checkpoint.BatchSend); NULL: one of its own.
ALTER TABLE begins ADD COLUMN batch TEXT;
