-- Trials of backups by a schedule: which slots they are of, and what they fetch, because that is what they cost.

-- One line for each try. Whoever decides to fetch writes it before the first byte, so that what was fetched counts also where
-- nobody lived to say how the trial ended.
CREATE TABLE pgseal.drills (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- No reference: what was fetched was fetched, also of a backup that is gone.
    backup_id  bigint NOT NULL,
    target     text NOT NULL CHECK (target <> ''),
    -- Null: the command line's.
    job_id     text,
    -- The whole object; nothing, where it came to no fetch.
    bytes      bigint NOT NULL CHECK (bytes >= 0),
    -- When it was decided, which is when it counts.
    counted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    begun_at   timestamptz,
    ended_at   timestamptz,
    -- The verdict, or why there is none.
    outcome    text,
    CONSTRAINT drills_end CHECK ((ended_at IS NULL) = (outcome IS NULL)),
    CONSTRAINT drills_begin CHECK (ended_at IS NULL OR begun_at IS NOT NULL)
);

CREATE INDEX drills_counted ON pgseal.drills (counted_at);
CREATE INDEX drills_of_backup ON pgseal.drills (backup_id, counted_at);
CREATE INDEX drills_of_job ON pgseal.drills (job_id, id) WHERE job_id IS NOT NULL;
CREATE INDEX backups_last_proof ON pgseal.backups (target, proof_at) WHERE proof = 'PROVEN';

-- Of a drill's slot: the job that carries it out, and why there is none, where there is none.
ALTER TABLE pgseal.schedule_slots
    ADD COLUMN job_id  text,
    ADD COLUMN outcome text;

-- A restore's job looks for the request that asked for it, in a table that only grows.
CREATE INDEX audit_of_restore ON pgseal.audit (restore_id, id) WHERE restore_id IS NOT NULL;
