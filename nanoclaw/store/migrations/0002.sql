-- WhatsApp: who wrote a message, files, vanishing messages, edits that come before their message.

ALTER TABLE messages ADD COLUMN sender TEXT NOT NULL DEFAULT '';  -- jid, as it was received
ALTER TABLE messages ADD COLUMN quoted_text TEXT NOT NULL DEFAULT '';  -- as the sender says
ALTER TABLE chats ADD COLUMN expires INTEGER NOT NULL DEFAULT 0;  -- seconds after which messages vanish
ALTER TABLE turns ADD COLUMN images TEXT NOT NULL DEFAULT '[]';  -- names in the group's media folder, shown to the model

-- An edit or delete of a message that has not come yet (they may come in any order); kept for a day.
CREATE TABLE early(
  channel TEXT NOT NULL, chat_id INTEGER NOT NULL REFERENCES chats(id) ON DELETE CASCADE,
  target TEXT NOT NULL, person_id INTEGER NOT NULL, by_admin INTEGER NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL,
  at INTEGER NOT NULL,
  PRIMARY KEY(chat_id, target, person_id, kind)
) STRICT;

-- The number in nanoclaw.toml that made somebody an owner: who is no longer listed loses it.
ALTER TABLE people ADD COLUMN listed TEXT NOT NULL DEFAULT '';

CREATE INDEX messages_chat ON messages(chat_id, id);  -- newest first, for what was said in a row
CREATE INDEX outgoing_wa ON outgoing(chat_id, wa_id) WHERE wa_id <> '';

-- What each group fetched on the last day that it fetched anything: the daily cap on files.
CREATE TABLE downloads(
  group_id INTEGER PRIMARY KEY REFERENCES groups(id), day TEXT NOT NULL, bytes INTEGER NOT NULL
) STRICT;
