-- A restore with mode swap sets the old database aside, and a rollback, which is a job of its own, brings it back.

ALTER TABLE pgseal.restores
    -- What was there before, under its name of now.
    ADD COLUMN kept_database text,
    -- The restore that this one undoes.
    ADD COLUMN undoes bigint CHECK (undoes <> id);

ALTER TABLE pgseal.restores DROP CONSTRAINT restores_mode_check;
ALTER TABLE pgseal.restores ADD CONSTRAINT restores_mode_check
    CHECK (mode IN ('in-place', 'new', 'swap', 'auto', 'rollback'));
ALTER TABLE pgseal.restores ADD CONSTRAINT restores_undoes CHECK ((mode = 'rollback') = (undoes IS NOT NULL));
