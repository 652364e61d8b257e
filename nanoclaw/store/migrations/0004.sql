-- Memory: versions of CLAUDE.md, and the index over notes, conversations and messages.

-- What CLAUDE.md was: of each folder (`global` is one too) the newest versions, numbered from 1 on.
CREATE TABLE memories(
  folder TEXT NOT NULL COLLATE NOCASE,
  n INTEGER NOT NULL,
  at INTEGER NOT NULL,
  who TEXT NOT NULL DEFAULT '',  -- who asked for it; '' where the file was simply found so
  of INTEGER NOT NULL DEFAULT 0,  -- the version that it brought back; 0 = a new one
  text BLOB NOT NULL,
  PRIMARY KEY(folder, n)
) STRICT;

-- What is to be written into CLAUDE.md: the row is first, the file follows.
CREATE TABLE unwritten(
  id INTEGER PRIMARY KEY,
  folder TEXT NOT NULL,
  who TEXT NOT NULL,
  of INTEGER NOT NULL,
  whole INTEGER NOT NULL,  -- whether `text` replaces all that stands there; else it is added
  text BLOB NOT NULL
) STRICT;

-- Notes as they were found: each file, and the passages that are searched.
CREATE TABLE notes(
  group_id INTEGER NOT NULL REFERENCES groups(id) ON DELETE CASCADE,
  path TEXT NOT NULL,  -- below the group's folder
  stamp TEXT NOT NULL,  -- another one: the file was changed
  PRIMARY KEY(group_id, path)
) STRICT;
CREATE TABLE passages(
  id INTEGER PRIMARY KEY,
  group_id INTEGER NOT NULL REFERENCES groups(id) ON DELETE CASCADE,
  path TEXT NOT NULL,
  line INTEGER NOT NULL,  -- where it begins, from 1 on
  at INTEGER NOT NULL,  -- when the file was written
  text TEXT NOT NULL
) STRICT;
CREATE INDEX passages_path ON passages(group_id, path, line);

-- The index. It holds no text of its own: each entry is looked up in the row that it is made of, and triggers keep it
-- with the rows, so that no statement can forget it. Whose a row is says the row: no search asks without a group.
DROP TABLE search;
CREATE VIRTUAL TABLE search_messages USING fts5(text, content = 'messages', content_rowid = 'id', tokenize = 'trigram');
CREATE VIRTUAL TABLE search_outgoing USING fts5(
  payload, content = 'outgoing', content_rowid = 'id', tokenize = 'trigram'
);
CREATE VIRTUAL TABLE search_passages USING fts5(text, content = 'passages', content_rowid = 'id', tokenize = 'trigram');

CREATE TRIGGER search_message_new AFTER INSERT ON messages WHEN new.text <> '' BEGIN
  INSERT INTO search_messages(rowid, text) VALUES(new.id, new.text);
END;
-- One trigger for both steps: of two nobody knows which comes first.
CREATE TRIGGER search_message_changed AFTER UPDATE OF text ON messages WHEN old.text <> new.text BEGIN
  INSERT INTO search_messages(search_messages, rowid, text) SELECT 'delete', old.id, old.text WHERE old.text <> '';
  INSERT INTO search_messages(rowid, text) SELECT new.id, new.text WHERE new.text <> '';
END;
CREATE TRIGGER search_message_gone AFTER DELETE ON messages WHEN old.text <> '' BEGIN
  INSERT INTO search_messages(search_messages, rowid, text) VALUES('delete', old.id, old.text);
END;
INSERT INTO search_messages(rowid, text) SELECT id, text FROM messages WHERE text <> '';

-- Of ours what people got: the agents' words, once they are sent.
CREATE TRIGGER search_outgoing_new AFTER INSERT ON outgoing
WHEN new.state = 'sent' AND new.kind IN ('reply', 'edit') AND new.payload <> '' BEGIN
  INSERT INTO search_outgoing(rowid, payload) VALUES(new.id, new.payload);
END;
CREATE TRIGGER search_outgoing_changed AFTER UPDATE OF state, kind, payload ON outgoing BEGIN
  INSERT INTO search_outgoing(search_outgoing, rowid, payload) SELECT 'delete', old.id, old.payload
    WHERE old.state = 'sent' AND old.kind IN ('reply', 'edit') AND old.payload <> '';
  INSERT INTO search_outgoing(rowid, payload) SELECT new.id, new.payload
    WHERE new.state = 'sent' AND new.kind IN ('reply', 'edit') AND new.payload <> '';
END;
CREATE TRIGGER search_outgoing_gone AFTER DELETE ON outgoing
WHEN old.state = 'sent' AND old.kind IN ('reply', 'edit') AND old.payload <> '' BEGIN
  INSERT INTO search_outgoing(search_outgoing, rowid, payload) VALUES('delete', old.id, old.payload);
END;
INSERT INTO search_outgoing(rowid, payload) SELECT id, payload FROM outgoing
  WHERE state = 'sent' AND kind IN ('reply', 'edit') AND payload <> '';

CREATE TRIGGER search_passage_new AFTER INSERT ON passages BEGIN
  INSERT INTO search_passages(rowid, text) VALUES(new.id, new.text);
END;
CREATE TRIGGER search_passage_gone AFTER DELETE ON passages BEGIN
  INSERT INTO search_passages(search_passages, rowid, text) VALUES('delete', old.id, old.text);
END;

-- What was to be forgotten while it was still answered: it goes when that is over, whatever ends it.
ALTER TABLE messages ADD COLUMN forget INTEGER NOT NULL DEFAULT 0;
ALTER TABLE turns ADD COLUMN forget INTEGER NOT NULL DEFAULT 0;
CREATE TRIGGER message_forgotten AFTER UPDATE OF state ON messages
WHEN new.forget = 1 AND new.state IN ('handled', 'withdrawn') BEGIN
  UPDATE messages SET text = '', quoted_text = '', media = '', forget = 0 WHERE id = new.id;
  UPDATE turns SET prompt = '', images = '[]' WHERE id = new.turn_id AND state IN ('done', 'failed', 'stopped');
  UPDATE requests SET args = '{}', answer = '' WHERE turn_id = new.turn_id;
END;
CREATE TRIGGER turn_forgotten AFTER UPDATE OF state ON turns
WHEN new.forget = 1 AND new.state IN ('done', 'failed', 'stopped') BEGIN
  UPDATE turns SET prompt = '', images = '[]', forget = 0 WHERE id = new.id;
  UPDATE requests SET args = '{}', answer = '' WHERE turn_id = new.id;
END;
