CREATE TABLE sections (id TEXT PRIMARY KEY, title TEXT NOT NULL, body TEXT NOT NULL);

-- Facts of the sections, for the tasks only: no tool reads them. NULL: the section omits the fact.
CREATE TABLE facts (
    section TEXT NOT NULL, kind TEXT NOT NULL, split TEXT NOT NULL, attribute TEXT NOT NULL, value TEXT,
    PRIMARY KEY (section, attribute)
);
CREATE TABLE links (
    section TEXT NOT NULL, relation TEXT NOT NULL, target TEXT NOT NULL, split TEXT NOT NULL,
    PRIMARY KEY (section, relation)
);
