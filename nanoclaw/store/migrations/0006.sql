-- The way out, and what it costs.

ALTER TABLE groups ADD COLUMN public_until INTEGER NOT NULL DEFAULT 0;  -- until then it reaches every host
-- Whoever sets the level means it from now on.
CREATE TRIGGER level_set AFTER UPDATE OF network ON groups WHEN old.network <> new.network BEGIN
  UPDATE groups SET public_until = 0 WHERE id = new.id;
END;

-- What each group carried, and how many refused hosts its owner was told of, on the last day that there was any.
CREATE TABLE traffic(
  group_id INTEGER PRIMARY KEY REFERENCES groups(id), day INTEGER NOT NULL,
  bytes INTEGER NOT NULL, told INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Hosts that a group was refused, so that its owner can see and allow them; only the newest are kept.
CREATE TABLE wanted(
  group_id INTEGER NOT NULL REFERENCES groups(id), host TEXT NOT NULL, port INTEGER NOT NULL,
  at INTEGER NOT NULL, count INTEGER NOT NULL DEFAULT 1,
  PRIMARY KEY(group_id, host, port)
) STRICT;

ALTER TABLE usage ADD COLUMN turn_id TEXT NOT NULL DEFAULT '';
ALTER TABLE usage ADD COLUMN cache_write_1h INTEGER NOT NULL DEFAULT 0;  -- of cache_write: what is kept for an hour
ALTER TABLE usage ADD COLUMN searches INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage ADD COLUMN cost INTEGER;  -- billionths of a dollar; NULL where the model's price is not known
CREATE INDEX usage_at ON usage(at);
CREATE INDEX usage_turn ON usage(turn_id) WHERE turn_id <> '';
