-- The vendor id that a waiter needs; NULL: any. An entity that has others is not what it waits for.
ALTER TABLE waiters ADD COLUMN ref_id TEXT;
