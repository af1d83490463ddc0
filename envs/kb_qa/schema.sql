CREATE TABLE sections (id TEXT PRIMARY KEY, title TEXT NOT NULL, body TEXT NOT NULL);

-- What the sections say, for the tasks alone: no tool reads these. A value that is NULL is left unsaid.
CREATE TABLE facts (
    section TEXT NOT NULL, kind TEXT NOT NULL, split TEXT NOT NULL, attribute TEXT NOT NULL, value TEXT,
    PRIMARY KEY (section, attribute)
);
CREATE TABLE links (
    section TEXT NOT NULL, relation TEXT NOT NULL, target TEXT NOT NULL, split TEXT NOT NULL,
    PRIMARY KEY (section, relation)
);
