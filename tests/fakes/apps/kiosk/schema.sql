CREATE TABLE shelves (name TEXT PRIMARY KEY);
CREATE TABLE items (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL COLLATE NOCASE,
    stock INTEGER NOT NULL,
    shelf TEXT REFERENCES shelves (name)
);
CREATE TABLE log (at TEXT, what TEXT);
