-- States that are newer than the ones in states: a row for each transaction, see states.go.
CREATE TABLE state_log (
  seq    INTEGER PRIMARY KEY,
  states BLOB NOT NULL
);
