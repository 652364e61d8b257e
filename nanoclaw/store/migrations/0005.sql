-- Tasks and their firings.

ALTER TABLE tasks ADD COLUMN made_by TEXT NOT NULL DEFAULT 'owner';  -- the authority of whoever made it
ALTER TABLE tasks ADD COLUMN asked INTEGER NOT NULL DEFAULT 0;  -- when somebody wanted it at once; 0 = nobody
ALTER TABLE tasks ADD COLUMN ended_at INTEGER NOT NULL DEFAULT 0;
CREATE INDEX tasks_due ON tasks(next_due) WHERE state = 'active';
CREATE INDEX tasks_asked ON tasks(asked) WHERE asked > 0;
CREATE INDEX tasks_group ON tasks(group_id);
CREATE INDEX tasks_chat ON tasks(chat_id);

ALTER TABLE firings ADD COLUMN at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE firings ADD COLUMN ended_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE firings ADD COLUMN cost REAL NOT NULL DEFAULT 0;
ALTER TABLE firings ADD COLUMN error TEXT NOT NULL DEFAULT '';
CREATE INDEX firings_at ON firings(at);
CREATE INDEX firings_open ON firings(task_id) WHERE state = 'open';

ALTER TABLE turns ADD COLUMN silent INTEGER NOT NULL DEFAULT 0;  -- its reply is for nobody
ALTER TABLE turns ADD COLUMN script TEXT NOT NULL DEFAULT '';  -- to be run first; '' also once it has asked for the model
CREATE INDEX turns_lane ON turns(lane);
CREATE INDEX turns_firing ON turns(firing_id) WHERE firing_id IS NOT NULL;

-- Triggers, so that no statement can forget it: a firing ends with its turn, and outlives it.
CREATE TRIGGER firing_over AFTER UPDATE OF state ON turns
WHEN new.firing_id IS NOT NULL AND new.state <> old.state AND new.state IN ('done', 'failed', 'stopped') BEGIN
  UPDATE firings SET state = new.state, ended_at = new.ended_at, cost = new.cost, error = new.error
    WHERE id = new.firing_id;
  UPDATE tasks SET failures = CASE new.state WHEN 'done' THEN 0 WHEN 'failed' THEN failures + 1 ELSE failures END
    WHERE id = (SELECT task_id FROM firings WHERE id = new.firing_id);
  UPDATE tasks SET state = 'done', ended_at = new.ended_at
    WHERE id = (SELECT task_id FROM firings WHERE id = new.firing_id)
    AND state = 'active' AND next_due IS NULL AND schedule LIKE '{"once":%';
END;
CREATE TRIGGER firing_costs AFTER UPDATE OF cost ON turns WHEN new.firing_id IS NOT NULL BEGIN
  UPDATE firings SET cost = new.cost WHERE id = new.firing_id;
END;
CREATE TRIGGER firing_gone BEFORE DELETE ON firings BEGIN
  UPDATE turns SET firing_id = NULL WHERE firing_id = old.id;
END;
