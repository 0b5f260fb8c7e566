-- How far each client has used up its allowance of signups: one number is all that the generic cell rate algorithm keeps.
--
-- The address of a client is personal data. Of an IPv6 address only the /64 is stored, nothing says what the client did, and a
-- row means nothing any more once the allowance is whole again, an hour after the client's last signup at the latest. It is then
-- gone within a minute or two: every replica sweeps. Backups and the write-ahead log keep it for as long as they are kept.

CREATE TABLE signup_limits (
    client   cidr        NOT NULL,
    whole_at timestamptz NOT NULL,
    CONSTRAINT signup_limits_one_row_per_client PRIMARY KEY (client),
    CONSTRAINT signup_limits_client_is_an_address_or_a_64
        CHECK (masklen(client) = CASE family(client) WHEN 4 THEN 32 ELSE 64 END)
);
-- For the sweep, which takes those that are whole.
CREATE INDEX signup_limits_by_age ON signup_limits (whole_at);

-- No tenant has rows here, so there is no row-level security.
GRANT SELECT, INSERT, DELETE, UPDATE (whole_at) ON signup_limits TO pulse_signup_gateway;
