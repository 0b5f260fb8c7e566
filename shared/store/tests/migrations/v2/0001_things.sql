CREATE TABLE owners (id INTEGER PRIMARY KEY) STRICT;
CREATE TABLE things (
    name  TEXT    NOT NULL PRIMARY KEY,
    size  INTEGER NOT NULL CONSTRAINT size_is_positive CHECK (size > 0),
    owner INTEGER REFERENCES owners (id),
    UNIQUE (size, owner)
) STRICT, WITHOUT ROWID;
