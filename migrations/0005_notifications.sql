-- The outbox: what happened to backups and restores, and to whom that is still to be told.
--
-- An event is written by the very change of state that it tells of, in the same transaction: whichever program or
-- statement makes the change, neither can be there without the other. Who is to hear of it, only workers know, which
-- have the channels' settings: the first one to see an event makes a delivery for each channel.

CREATE TABLE pgseal.events (
    -- The same in each try: whoever gets an event twice, since a worker died between sending and recording, knows by it.
    id        uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind      text NOT NULL CHECK (kind <> ''),
    target    text NOT NULL CHECK (target <> ''),
    -- As src/model/event.rs reads them.
    facts     jsonb NOT NULL CHECK (jsonb_typeof(facts) = 'object'),
    routed_at timestamptz
);

CREATE INDEX events_unrouted ON pgseal.events (at) WHERE routed_at IS NULL;
CREATE INDEX events_oldest ON pgseal.events (at);

CREATE TABLE pgseal.deliveries (
    event_id    uuid NOT NULL REFERENCES pgseal.events ON DELETE CASCADE,
    channel     text NOT NULL CHECK (channel <> ''),
    -- Superseded: a ping that a later one of the same target made meaningless.
    status      text NOT NULL DEFAULT 'waiting' CHECK (status IN ('waiting', 'sent', 'given up', 'superseded')),
    attempts    integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    next_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Whoever sends it. Its token fences, as that of a job.
    lease_token uuid,
    lease_until timestamptz,
    error       text,
    ended_at    timestamptz,
    PRIMARY KEY (event_id, channel),
    CONSTRAINT deliveries_lease CHECK ((lease_token IS NULL) = (lease_until IS NULL)),
    CONSTRAINT deliveries_ended CHECK ((status = 'waiting') = (ended_at IS NULL)),
    CONSTRAINT deliveries_no_lease_at_the_end CHECK (status = 'waiting' OR lease_token IS NULL)
);

CREATE INDEX deliveries_due ON pgseal.deliveries (channel, next_at) WHERE status = 'waiting';

-- A text that nobody would read to its end, without its middle: the beginning says what failed, the end what to do.
CREATE FUNCTION pgseal.without_its_middle(said text) RETURNS text LANGUAGE sql IMMUTABLE SET search_path = '' AS $$
    SELECT CASE WHEN pg_catalog.length(said) <= 4000 THEN said
        ELSE pg_catalog.left(said, 2000) || E'\n[...]\n' || pg_catalog.right(said, 2000) END
$$;

-- Writes an event. What is null is left out.
CREATE FUNCTION pgseal.tell(kind text, target text, facts jsonb) RETURNS void
LANGUAGE sql SET search_path = '' AS $$
    INSERT INTO pgseal.events (kind, target, facts) VALUES (kind, target, pg_catalog.jsonb_strip_nulls(facts))
$$;

CREATE FUNCTION pgseal.tell_of_a_backup() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    facts jsonb := pg_catalog.jsonb_build_object(
        'database', NEW.database, 'backup_id', NEW.id, 'backup_kind', NEW.kind, 'object_key', NEW.object_key,
        'attempt', NEW.attempt, 'requested_by', pg_catalog.left(NEW.requested_by, 200));
    told text;
BEGIN
    IF NEW.status <> OLD.status THEN
        told := CASE NEW.status
            WHEN 'running' THEN 'backup.started' WHEN 'completed' THEN 'backup.completed'
            WHEN 'failed' THEN 'backup.failed' END;
        IF told IS NOT NULL THEN
            PERFORM pgseal.tell(told, NEW.target, facts || pg_catalog.jsonb_build_object(
                'seconds', extract(epoch FROM NEW.finished_at - NEW.started_at),
                'plain_bytes', NEW.plain_bytes, 'sealed_bytes', NEW.sealed_bytes, 'tables', NEW.tables,
                'rows', NEW."rows", 'warnings', pg_catalog.cardinality(NEW.warnings),
                'stage', pg_catalog.left(NEW.error_stage, 200), 'error', pgseal.without_its_middle(NEW.error)));
        END IF;
    END IF;
    IF NEW.health <> OLD.health THEN
        told := CASE NEW.health
            WHEN 'SUSPICIOUS' THEN 'backup.suspicious' WHEN 'CORRUPT' THEN 'backup.corrupt' WHEN 'lost' THEN 'backup.lost' END;
        IF told IS NOT NULL THEN
            PERFORM pgseal.tell(told, NEW.target, facts || pg_catalog.jsonb_build_object(
                'error', pgseal.without_its_middle(NEW.health_reason)));
        END IF;
    END IF;
    IF NEW.proof <> OLD.proof AND NEW.proof = 'FAILED' THEN
        PERFORM pgseal.tell('proof.failed', NEW.target, facts || pg_catalog.jsonb_build_object(
            'seconds', NEW.proof_seconds, 'error', pgseal.without_its_middle(NEW.proof_reason)));
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION pgseal.tell_of_a_restore() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    told text := CASE NEW.status
        WHEN 'running' THEN 'restore.started' WHEN 'completed' THEN 'restore.completed'
        WHEN 'failed' THEN 'restore.failed' END;
BEGIN
    IF told IS NOT NULL THEN
        PERFORM pgseal.tell(told, NEW.target, pg_catalog.jsonb_build_object(
            'database', NEW.database, 'restore_id', NEW.id, 'backup_id', NEW.backup_id,
            'safety_backup_id', NEW.safety_backup_id, 'attempt', NEW.attempt,
            'object_key', (SELECT b.object_key FROM pgseal.backups b WHERE b.id = NEW.backup_id),
            'requested_by', pg_catalog.left(NEW.requested_by, 200),
            'seconds', extract(epoch FROM NEW.finished_at - NEW.started_at),
            'plain_bytes', NEW.plain_bytes, 'tables', NEW.compared_tables, 'rows', NEW.compared_rows,
            'warnings', pg_catalog.cardinality(NEW.warnings),
            'stage', pg_catalog.left(NEW.error_stage, 200), 'error', pgseal.without_its_middle(NEW.error)));
    END IF;
    RETURN NULL;
END
$$;

-- Not of rows that are inserted: what was adopted or taken over happened elsewhere, and was told there.
CREATE TRIGGER tell_of_a_backup AFTER UPDATE OF status, health, proof ON pgseal.backups
    FOR EACH ROW EXECUTE FUNCTION pgseal.tell_of_a_backup();
CREATE TRIGGER tell_of_a_restore AFTER UPDATE OF status ON pgseal.restores
    FOR EACH ROW WHEN (NEW.status <> OLD.status) EXECUTE FUNCTION pgseal.tell_of_a_restore();
