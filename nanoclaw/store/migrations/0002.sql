-- WhatsApp: who wrote a message, files, vanishing messages, edits that come before their message.

ALTER TABLE messages ADD COLUMN sender TEXT NOT NULL DEFAULT '';  -- jid, as it was received
ALTER TABLE messages ADD COLUMN quoted_text TEXT NOT NULL DEFAULT '';  -- as the sender says
ALTER TABLE messages ADD COLUMN forwarded INTEGER NOT NULL DEFAULT 0;  -- the words are not the sender's own
ALTER TABLE chats ADD COLUMN expires INTEGER NOT NULL DEFAULT 0;  -- seconds after which messages vanish
ALTER TABLE turns ADD COLUMN images TEXT NOT NULL DEFAULT '[]';  -- names in the group's media folder, shown to the model

-- The session that the model's API refused; '' again as soon as there is a new one.
ALTER TABLE lanes ADD COLUMN refused TEXT NOT NULL DEFAULT '';

-- An edit or delete of a message that has not come yet (they may come in any order); kept for a day.
CREATE TABLE early(
  channel TEXT NOT NULL, chat_id INTEGER NOT NULL REFERENCES chats(id) ON DELETE CASCADE,
  target TEXT NOT NULL, person_id INTEGER NOT NULL, by_admin INTEGER NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL,
  mentions_us INTEGER NOT NULL, at INTEGER NOT NULL,
  PRIMARY KEY(chat_id, target, person_id, kind)
) STRICT;

-- The number in nanoclaw.toml that made somebody an owner: who is no longer listed loses it.
ALTER TABLE people ADD COLUMN listed TEXT NOT NULL DEFAULT '';

CREATE INDEX messages_unshown ON messages(chat_id, verdict, id) WHERE state = 'open';
CREATE INDEX messages_chat ON messages(chat_id, id);  -- newest first, for what was said in a row
CREATE INDEX outgoing_wa ON outgoing(chat_id, wa_id) WHERE wa_id <> '';

-- What each group fetched on the last day that it fetched anything: the daily cap on files.
CREATE TABLE downloads(
  group_id INTEGER PRIMARY KEY REFERENCES groups(id), day TEXT NOT NULL, bytes INTEGER NOT NULL
) STRICT;

-- Hours of a chat of which something was stored, changed or sent since its conversations were written as files.
-- `n` tells a later change from the one that was seen, `erased` that files may have to go with it.
CREATE TABLE unkept(
  chat_id INTEGER NOT NULL, hour INTEGER NOT NULL, n INTEGER NOT NULL DEFAULT 1, erased INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY(chat_id, hour)
) STRICT;
-- Triggers, so that no statement can forget it.
CREATE TRIGGER unkept_new AFTER INSERT ON messages BEGIN
  INSERT INTO unkept(chat_id, hour) VALUES(new.chat_id, new.saved_at / 3600000) ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER unkept_changed AFTER UPDATE OF text, media, state, chat_id ON messages
WHEN old.text <> new.text OR old.media <> new.media OR old.chat_id <> new.chat_id OR new.state = 'withdrawn' BEGIN
  INSERT INTO unkept(chat_id, hour, erased) VALUES(new.chat_id, new.saved_at / 3600000, old.media <> '' AND new.media = '')
    ON CONFLICT DO UPDATE SET n = n + 1, erased = max(erased, excluded.erased);
END;
CREATE TRIGGER unkept_sent AFTER UPDATE OF state, payload ON outgoing
WHEN new.state = 'sent' AND (old.state <> 'sent' OR old.payload <> new.payload) BEGIN
  INSERT INTO unkept(chat_id, hour) VALUES(new.chat_id, new.created_at / 3600000) ON CONFLICT DO UPDATE SET n = n + 1;
END;
INSERT INTO unkept(chat_id, hour) SELECT DISTINCT chat_id, saved_at / 3600000 FROM messages WHERE true
  ON CONFLICT DO NOTHING;
INSERT INTO unkept(chat_id, hour) SELECT DISTINCT chat_id, created_at / 3600000 FROM outgoing WHERE true
  ON CONFLICT DO NOTHING;

-- The sessions of before that moment go as soon as no container has them open; 0 = none.
ALTER TABLE lanes ADD COLUMN forget INTEGER NOT NULL DEFAULT 0;

CREATE INDEX messages_saved ON messages(chat_id, saved_at);
CREATE INDEX outgoing_created ON outgoing(chat_id, created_at);
CREATE INDEX requests_turn ON requests(turn_id);
CREATE INDEX turns_chat ON turns(chat_id);
CREATE INDEX chats_group ON chats(group_id);
