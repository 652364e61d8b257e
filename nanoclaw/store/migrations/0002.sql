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

CREATE INDEX outgoing_wa ON outgoing(chat_id, wa_id) WHERE wa_id <> '';
