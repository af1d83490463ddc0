-- CRM of one episode. Ids are short and opaque: a letter for the table and a random number.
-- `updated_at` is volatile (see crm.yaml): it may change with any write and is never compared.

CREATE TABLE users (              -- staff; `role` limits the requests that a user may make
    id TEXT PRIMARY KEY,          -- U17
    name TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('rep', 'manager')),
    region TEXT NOT NULL CHECK (region IN ('north', 'south', 'east', 'west'))
);
CREATE TABLE accounts (           -- companies
    id TEXT PRIMARY KEY,          -- A38
    name TEXT NOT NULL,
    city TEXT NOT NULL,
    region TEXT NOT NULL,
    tier TEXT NOT NULL CHECK (tier IN ('gold', 'silver', 'bronze')),
    owner_id TEXT NOT NULL REFERENCES users (id),
    updated_at TEXT NOT NULL
);
CREATE TABLE contacts (           -- people at a company; names are not unique
    id TEXT PRIMARY KEY,          -- C417
    account_id TEXT NOT NULL REFERENCES accounts (id),
    name TEXT NOT NULL,
    title TEXT NOT NULL,
    email TEXT NOT NULL,
    phone TEXT NOT NULL,
    do_not_contact INTEGER NOT NULL DEFAULT 0,
    updated_at TEXT NOT NULL
);
CREATE TABLE leads (              -- people who asked but belong to no account yet
    id TEXT PRIMARY KEY,          -- L52
    name TEXT NOT NULL,
    company TEXT NOT NULL,
    email TEXT NOT NULL,
    region TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('new', 'working', 'converted', 'dropped')),
    owner_id TEXT REFERENCES users (id),
    updated_at TEXT NOT NULL
);
CREATE TABLE products (
    id TEXT PRIMARY KEY,          -- P24
    name TEXT NOT NULL,
    price INTEGER NOT NULL        -- whole dollars a piece
);
CREATE TABLE deals (              -- sales in progress
    id TEXT PRIMARY KEY,          -- D305
    account_id TEXT NOT NULL REFERENCES accounts (id),
    contact_id TEXT REFERENCES contacts (id),
    name TEXT NOT NULL,
    stage TEXT NOT NULL CHECK (stage IN ('new', 'qualified', 'proposal', 'negotiation', 'won', 'lost')),
    amount INTEGER NOT NULL,      -- whole dollars
    close_date TEXT NOT NULL,     -- YYYY-MM-DD, expected
    owner_id TEXT NOT NULL REFERENCES users (id),
    updated_at TEXT NOT NULL
);
CREATE TABLE quotes (             -- offers made for a deal
    id TEXT PRIMARY KEY,          -- Q811
    deal_id TEXT NOT NULL REFERENCES deals (id),
    product_id TEXT NOT NULL REFERENCES products (id),
    quantity INTEGER NOT NULL CHECK (quantity > 0),
    discount INTEGER NOT NULL CHECK (discount BETWEEN 0 AND 100),  -- percent
    status TEXT NOT NULL CHECK (status IN ('sent', 'accepted', 'declined')),
    created_at TEXT NOT NULL
);
CREATE TABLE approvals (          -- a manager's permission for a discount on one deal
    id TEXT PRIMARY KEY,          -- V61
    deal_id TEXT NOT NULL REFERENCES deals (id),
    discount INTEGER NOT NULL,    -- percent, at most
    user_id TEXT NOT NULL REFERENCES users (id),
    created_at TEXT NOT NULL
);
CREATE TABLE cases (              -- complaints of customers
    id TEXT PRIMARY KEY,          -- K290
    account_id TEXT NOT NULL REFERENCES accounts (id),
    subject TEXT NOT NULL,
    priority TEXT NOT NULL CHECK (priority IN ('low', 'normal', 'high', 'urgent')),
    status TEXT NOT NULL CHECK (status IN ('open', 'waiting', 'solved')),
    owner_id TEXT NOT NULL REFERENCES users (id),
    updated_at TEXT NOT NULL
);
CREATE TABLE notes (              -- notes on a record; may be outdated, wrong or hostile
    id TEXT PRIMARY KEY,          -- N733
    record_id TEXT NOT NULL,
    text TEXT NOT NULL,
    created_at TEXT NOT NULL
);
CREATE TABLE tasks (              -- things to do
    id TEXT PRIMARY KEY,          -- T140
    record_id TEXT NOT NULL,
    title TEXT NOT NULL,
    due TEXT NOT NULL,            -- YYYY-MM-DD
    owner_id TEXT REFERENCES users (id),
    created_at TEXT NOT NULL
);
CREATE TABLE calls (
    id TEXT PRIMARY KEY,          -- H212
    contact_id TEXT NOT NULL REFERENCES contacts (id),
    outcome TEXT NOT NULL CHECK (outcome IN ('reached', 'voicemail', 'busy', 'callback')),
    created_at TEXT NOT NULL
);
CREATE TABLE emails (
    id TEXT PRIMARY KEY,          -- E505
    contact_id TEXT NOT NULL REFERENCES contacts (id),
    template TEXT NOT NULL CHECK (template IN ('welcome', 'invoice', 'newsletter', 'renewal', 'survey')),
    created_at TEXT NOT NULL
);
CREATE TABLE policies (           -- the written rules; numbers and limits differ per world
    topic TEXT PRIMARY KEY,
    rule TEXT NOT NULL,           -- R27
    text TEXT NOT NULL,
    low INTEGER,                  -- limits in the text, for the tasks only: no tool shows them
    high INTEGER
);
CREATE TABLE requests (           -- how requests ended; `close_request` adds the present one
    id TEXT PRIMARY KEY,          -- X930
    outcome TEXT NOT NULL CHECK (outcome IN ('done', 'answered', 'partly', 'refused')),
    reason TEXT NOT NULL,         -- the rule that forbade it, or empty
    answer TEXT NOT NULL,
    closed_at TEXT NOT NULL
);
