-- What was to be forgotten while a task's turn ran: its script, and of its error all but the cause, go with its end too.
-- The triggers of 0004 and 0005 anew: each writes what it writes for itself, so that no order of the two matters.
DROP TRIGGER turn_forgotten;
CREATE TRIGGER turn_forgotten AFTER UPDATE OF state ON turns
WHEN new.forget = 1 AND new.state IN ('done', 'failed', 'stopped') BEGIN
  UPDATE turns SET prompt = '', images = '[]', script = '', forget = 0,
    error = iif(instr(new.error, ':'), substr(new.error, 1, instr(new.error, ':') - 1), new.error)
    WHERE id = new.id;
  UPDATE requests SET args = '{}', answer = '' WHERE turn_id = new.id;
END;
DROP TRIGGER firing_over;
CREATE TRIGGER firing_over AFTER UPDATE OF state ON turns
WHEN new.firing_id IS NOT NULL AND new.state <> old.state AND new.state IN ('done', 'failed', 'stopped') BEGIN
  UPDATE firings SET state = new.state, ended_at = new.ended_at, cost = new.cost,
    error = iif(new.forget AND instr(new.error, ':'), substr(new.error, 1, instr(new.error, ':') - 1), new.error)
    WHERE id = new.firing_id;
  UPDATE tasks SET failures = CASE new.state WHEN 'done' THEN 0 WHEN 'failed' THEN failures + 1 ELSE failures END
    WHERE id = (SELECT task_id FROM firings WHERE id = new.firing_id);
  UPDATE tasks SET state = 'done', ended_at = new.ended_at
    WHERE id = (SELECT task_id FROM firings WHERE id = new.firing_id)
    AND state = 'active' AND next_due IS NULL AND schedule LIKE '{"once":%';
END;
