-- What runs unattended needs: which moments of a schedule were seen to, and who reads a backup at the moment.

-- A schedule as it was first seen. What was due before that, nobody owed. Workers of two versions may have two
-- expressions for one schedule for a while; each has its own line.
CREATE TABLE pgseal.schedules (
    name       text NOT NULL CHECK (name <> ''),
    expression text NOT NULL,
    zone       text NOT NULL,
    since      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (name, expression, zone)
);

-- One line for each moment that was due, whoever saw it first: the primary key is what makes it one backup, over all
-- workers. Without a backup it waits for its target, until a newer one takes its place.
CREATE TABLE pgseal.schedule_slots (
    schedule   text NOT NULL CHECK (schedule <> ''),
    slot       timestamptz NOT NULL,
    noted_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    backup_id  bigint,
    -- When somebody saw that nothing came of it in time.
    overdue_at timestamptz,
    CONSTRAINT one_backup_for_a_slot PRIMARY KEY (schedule, slot)
);

-- Who reads a backup without a restore's row: a verification, a trial, a copy. Until when at most, should it die.
CREATE TABLE pgseal.pins (
    backup_id bigint NOT NULL REFERENCES pgseal.backups ON DELETE CASCADE,
    holder    text NOT NULL CHECK (holder <> ''),
    until     timestamptz NOT NULL,
    PRIMARY KEY (backup_id, holder)
);
