-- Everything that must not be lost. Times are milliseconds since 1970 (UTC); states are the enums of models.py.

CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

CREATE TABLE groups(
  id INTEGER PRIMARY KEY,
  folder TEXT NOT NULL UNIQUE COLLATE NOCASE,
  name TEXT NOT NULL,
  is_main INTEGER NOT NULL DEFAULT 0,
  mode TEXT NOT NULL DEFAULT 'word',
  word TEXT NOT NULL DEFAULT '',
  who TEXT NOT NULL DEFAULT 'everyone',
  model TEXT NOT NULL DEFAULT '',
  network TEXT NOT NULL DEFAULT 'none',
  hosts TEXT NOT NULL DEFAULT '[]',
  mounts TEXT NOT NULL DEFAULT '[]',
  limits TEXT NOT NULL DEFAULT '{}',
  zone TEXT NOT NULL DEFAULT '',
  skills TEXT NOT NULL DEFAULT '[]',
  state TEXT NOT NULL DEFAULT 'active',
  created_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX one_main ON groups(is_main) WHERE is_main;

CREATE TABLE chats(
  id INTEGER PRIMARY KEY,
  channel TEXT NOT NULL,
  name TEXT NOT NULL DEFAULT '',
  is_group INTEGER NOT NULL DEFAULT 0,
  group_id INTEGER REFERENCES groups(id),
  seen INTEGER NOT NULL,
  count INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE chat_jids(
  jid TEXT NOT NULL, channel TEXT NOT NULL, chat_id INTEGER NOT NULL REFERENCES chats(id) ON DELETE CASCADE,
  rank INTEGER NOT NULL,  -- the lowest is the one to send to
  PRIMARY KEY(channel, jid)
) STRICT;

CREATE TABLE people(
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL DEFAULT '',
  role TEXT NOT NULL DEFAULT 'guest'
) STRICT;
CREATE TABLE person_jids(
  jid TEXT NOT NULL, channel TEXT NOT NULL, person_id INTEGER NOT NULL REFERENCES people(id) ON DELETE CASCADE,
  PRIMARY KEY(channel, jid)
) STRICT;

-- A lane is the string key of one agent's queue: a group's folder, or <folder>#task-...
CREATE TABLE lanes(
  lane TEXT PRIMARY KEY,
  group_id INTEGER NOT NULL REFERENCES groups(id),
  session TEXT NOT NULL DEFAULT '',
  parked TEXT NOT NULL DEFAULT '',  -- the cause, '' when it is not parked
  parked_at INTEGER NOT NULL DEFAULT 0,
  detail TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE TABLE turns(
  id TEXT PRIMARY KEY,
  lane TEXT NOT NULL REFERENCES lanes(lane),
  group_id INTEGER NOT NULL REFERENCES groups(id),
  chat_id INTEGER NOT NULL REFERENCES chats(id),
  origin TEXT NOT NULL,  -- message, task, unsolicited
  firing_id INTEGER REFERENCES firings(id),
  authority TEXT NOT NULL,
  state TEXT NOT NULL,
  prompt TEXT NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  kills INTEGER NOT NULL DEFAULT 0,
  retries INTEGER NOT NULL DEFAULT 0,
  not_before INTEGER NOT NULL DEFAULT 0,
  run_id TEXT NOT NULL DEFAULT '',
  spoke INTEGER NOT NULL DEFAULT 0,
  answered_by TEXT NOT NULL DEFAULT '',  -- the turn that carries the reply, when several ended together
  cost REAL NOT NULL DEFAULT 0,
  error TEXT NOT NULL DEFAULT '',
  created_at INTEGER NOT NULL,
  given_at INTEGER NOT NULL DEFAULT 0,
  ended_at INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX turns_waiting ON turns(lane, created_at) WHERE state IN ('open', 'given', 'parked');

CREATE TABLE messages(
  id INTEGER PRIMARY KEY,
  chat_id INTEGER NOT NULL REFERENCES chats(id),
  wa_id TEXT NOT NULL,
  from_me INTEGER NOT NULL,
  person_id INTEGER NOT NULL REFERENCES people(id),
  lane TEXT NOT NULL,
  kind TEXT NOT NULL,
  text TEXT NOT NULL,
  quoted TEXT NOT NULL DEFAULT '',
  media TEXT NOT NULL DEFAULT '',
  at INTEGER NOT NULL,
  saved_at INTEGER NOT NULL,
  verdict TEXT NOT NULL,
  state TEXT NOT NULL,
  turn_id TEXT REFERENCES turns(id),
  UNIQUE(chat_id, wa_id, from_me)
) STRICT;
CREATE INDEX messages_open ON messages(lane, id) WHERE state = 'open';
CREATE INDEX messages_turn ON messages(turn_id);

CREATE TABLE runs(
  id TEXT PRIMARY KEY,
  lane TEXT NOT NULL,
  group_id INTEGER NOT NULL REFERENCES groups(id),
  state TEXT NOT NULL,
  container TEXT NOT NULL DEFAULT '',
  fingerprint TEXT NOT NULL,
  sockets TEXT NOT NULL,
  offset INTEGER NOT NULL DEFAULT 0,
  session TEXT NOT NULL DEFAULT '',
  started_at INTEGER NOT NULL,
  ended_at INTEGER NOT NULL DEFAULT 0,
  cause TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE UNIQUE INDEX one_run_a_lane ON runs(lane) WHERE state <> 'ended';

-- The inbox: the letter's file is a copy of this row. `ref` names the turn or the request that it is made from.
CREATE TABLE letters(
  run_id TEXT NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
  n INTEGER NOT NULL,
  kind TEXT NOT NULL,
  ref TEXT NOT NULL,
  PRIMARY KEY(run_id, n)
) STRICT;

CREATE TABLE requests(
  run_id TEXT NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
  n INTEGER NOT NULL,
  turn_id TEXT NOT NULL REFERENCES turns(id),
  tool TEXT NOT NULL,
  args TEXT NOT NULL,
  state TEXT NOT NULL,
  ok INTEGER NOT NULL DEFAULT 0,
  answer TEXT NOT NULL DEFAULT '',
  outgoing_id INTEGER,
  deadline INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY(run_id, n)
) STRICT;

CREATE TABLE outgoing(
  id INTEGER PRIMARY KEY,
  chat_id INTEGER NOT NULL REFERENCES chats(id),
  turn_id TEXT NOT NULL DEFAULT '',
  part INTEGER NOT NULL DEFAULT 0,
  kind TEXT NOT NULL,
  payload TEXT NOT NULL,
  quote TEXT NOT NULL DEFAULT '',
  state TEXT NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  unknowns INTEGER NOT NULL DEFAULT 0,  -- sends whose outcome nobody learned
  next_try INTEGER NOT NULL DEFAULT 0,
  wa_id TEXT NOT NULL DEFAULT '',
  error TEXT NOT NULL DEFAULT '',
  created_at INTEGER NOT NULL,
  sent_at INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX outgoing_waiting ON outgoing(chat_id, id) WHERE state IN ('queued', 'sending', 'unknown');
CREATE INDEX outgoing_turn ON outgoing(turn_id);

CREATE TABLE tasks(
  id INTEGER PRIMARY KEY,
  group_id INTEGER NOT NULL REFERENCES groups(id),
  chat_id INTEGER NOT NULL REFERENCES chats(id),
  prompt TEXT NOT NULL,
  schedule TEXT NOT NULL,
  zone TEXT NOT NULL,
  options TEXT NOT NULL DEFAULT '{}',
  state TEXT NOT NULL,
  next_due INTEGER,
  failures INTEGER NOT NULL DEFAULT 0,
  person_id INTEGER REFERENCES people(id),
  created_at INTEGER NOT NULL
) STRICT;
CREATE TABLE firings(
  id INTEGER PRIMARY KEY,
  task_id INTEGER NOT NULL REFERENCES tasks(id),
  due INTEGER NOT NULL,
  turn_id TEXT,
  state TEXT NOT NULL,
  UNIQUE(task_id, due)
) STRICT;

CREATE TABLE usage(
  at INTEGER NOT NULL,
  group_id INTEGER NOT NULL REFERENCES groups(id),
  run_id TEXT NOT NULL,
  model TEXT NOT NULL,
  input INTEGER NOT NULL,
  output INTEGER NOT NULL,
  cache_read INTEGER NOT NULL,
  cache_write INTEGER NOT NULL
) STRICT;
CREATE INDEX usage_group ON usage(group_id, at);

-- What a chat was already told, so that it is told once; the row goes when the cause is over.
CREATE TABLE notices(
  cause TEXT NOT NULL, chat_id INTEGER NOT NULL REFERENCES chats(id) ON DELETE CASCADE, at INTEGER NOT NULL,
  PRIMARY KEY(cause, chat_id)
) STRICT;

CREATE TABLE pending(
  code TEXT PRIMARY KEY, change TEXT NOT NULL, hash TEXT NOT NULL, created_at INTEGER NOT NULL, until INTEGER NOT NULL
) STRICT;

CREATE TABLE audit(id INTEGER PRIMARY KEY, at INTEGER NOT NULL, who TEXT NOT NULL, verb TEXT NOT NULL, detail TEXT NOT NULL) STRICT;

CREATE VIRTUAL TABLE search USING fts5(text, group_id UNINDEXED, source UNINDEXED, ref UNINDEXED, tokenize = 'trigram');
