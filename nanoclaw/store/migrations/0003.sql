-- Groups, people, pending changes and the record of what was done.

-- A change that waits for the owner's word. Of an answered one a day's trace stays, so that it is not asked again.
ALTER TABLE pending ADD COLUMN asker TEXT NOT NULL DEFAULT '';  -- who wants it, as in the record
ALTER TABLE pending ADD COLUMN state TEXT NOT NULL DEFAULT 'waiting';  -- waiting, done, refused
CREATE INDEX pending_hash ON pending(hash);

ALTER TABLE groups ADD COLUMN fallback_model TEXT NOT NULL DEFAULT '';
ALTER TABLE groups ADD COLUMN prefix TEXT NOT NULL DEFAULT '';
ALTER TABLE groups ADD COLUMN reaction TEXT NOT NULL DEFAULT '';
UPDATE groups SET who = 'owner' WHERE is_main;
UPDATE groups SET word = '';  -- it was "@" and the name: so it is by default, also when the name changes

-- A guest whose words are context everywhere, until allowed.
ALTER TABLE people ADD COLUMN denied INTEGER NOT NULL DEFAULT 0;

ALTER TABLE chats ADD COLUMN members INTEGER NOT NULL DEFAULT 0;  -- people in it, as the channel says; 0 = not known
ALTER TABLE chats ADD COLUMN listed_at INTEGER NOT NULL DEFAULT 0;  -- when its members were first written down
-- Who is in a chat that we serve: each jid, with the first of the same person's.
CREATE TABLE members(
  chat_id INTEGER NOT NULL REFERENCES chats(id) ON DELETE CASCADE, jid TEXT NOT NULL, member TEXT NOT NULL,
  since INTEGER NOT NULL,  -- 0 = from the beginning
  PRIMARY KEY(chat_id, jid)
) STRICT;
CREATE INDEX person_jids_person ON person_jids(person_id);
CREATE INDEX chat_jids_chat ON chat_jids(chat_id);
CREATE INDEX messages_of_person ON messages(person_id, saved_at) WHERE verdict = 'work';

ALTER TABLE runs ADD COLUMN writes TEXT NOT NULL DEFAULT '[]';  -- folders beside its group's own that it may write
