-- What somebody chose for a restore beside its mode: a plan, parts of the backup, what becomes of missing roles.

ALTER TABLE pgseal.restores
    ADD COLUMN choices jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(choices) = 'object');
