-- Files that agents send, and questions that they ask.

ALTER TABLE outgoing ADD COLUMN file TEXT NOT NULL DEFAULT '';  -- of kind file: models.OutFile as JSON
CREATE INDEX outgoing_files ON outgoing(id) WHERE file <> '';

-- An open question of an agent: a tool call that waits for somebody's answer. The row goes when the call is answered.
CREATE TABLE questions(
  run_id TEXT NOT NULL,
  n INTEGER NOT NULL,
  chat_id INTEGER NOT NULL REFERENCES chats(id) ON DELETE CASCADE,
  person_id INTEGER NOT NULL REFERENCES people(id) ON DELETE CASCADE,  -- who is asked
  outgoing_id INTEGER NOT NULL,
  options TEXT NOT NULL,  -- JSON
  asked_at INTEGER NOT NULL,
  patience INTEGER NOT NULL,  -- milliseconds
  until INTEGER NOT NULL,
  answer TEXT NOT NULL DEFAULT '',  -- what the agent will be told; '' = nobody has answered
  PRIMARY KEY(run_id, n),
  FOREIGN KEY(run_id, n) REFERENCES requests(run_id, n) ON DELETE CASCADE
) STRICT;
CREATE INDEX questions_chat ON questions(chat_id, person_id);
CREATE INDEX questions_person ON questions(person_id);
