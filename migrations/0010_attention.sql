-- Whoever was told that backups fail hears when they work again; and that no drill comes to a verdict is told once, before it is
-- overdue. The function is 0005's, with these two.

CREATE INDEX events_of_target ON pgseal.events (target, kind, at);

-- What a complete backup is the end of: of failures, whichever it is; that a schedule produces nothing, only if the schedule made it.
CREATE FUNCTION pgseal.recovered_from(of_target text, made_by text) RETURNS text LANGUAGE sql STABLE SET search_path = '' AS $$
    WITH told AS (
        SELECT pg_catalog.max(e.at) FILTER (WHERE e.kind = 'backup.overdue') AS overdue,
            pg_catalog.max(e.at) FILTER (WHERE e.kind = 'backup.failed') AS failed,
            pg_catalog.max(e.at) FILTER (WHERE e.kind = 'backup.completed') AS completed,
            pg_catalog.max(e.at) FILTER (WHERE e.kind = 'backup.completed' AND e.facts ->> 'backup_kind' = 'scheduled') AS kept
        FROM pgseal.events e WHERE e.target = of_target AND e.kind IN ('backup.overdue', 'backup.failed', 'backup.completed')
            AND e.facts ->> 'backup_kind' IS DISTINCT FROM 'pre_restore')
    SELECT CASE
        WHEN made_by = 'scheduled' AND overdue > COALESCE(kept, '-infinity') THEN 'backup.overdue'
        WHEN failed > COALESCE(completed, '-infinity') THEN 'backup.failed' END FROM told
$$;

-- When a drill proved a backup of a target last, which may be gone since.
CREATE FUNCTION pgseal.last_proven(of_target text) RETURNS timestamptz LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT GREATEST(
        (SELECT pg_catalog.max(b.proof_at) FROM pgseal.backups b WHERE b.target = of_target AND b.proof = 'PROVEN'),
        (SELECT pg_catalog.max(d.ended_at) FROM pgseal.drills d WHERE d.target = of_target AND d.outcome = 'PROVEN'))
$$;

CREATE OR REPLACE FUNCTION pgseal.tell_of_a_backup() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    facts jsonb := pg_catalog.jsonb_build_object(
        'database', NEW.database, 'backup_id', NEW.id, 'backup_kind', NEW.kind, 'object_key', NEW.object_key,
        'attempt', NEW.attempt, 'requested_by', pg_catalog.left(NEW.requested_by, 200));
    told text;
    ended text;
BEGIN
    IF NEW.status <> OLD.status THEN
        told := CASE NEW.status
            WHEN 'running' THEN 'backup.started' WHEN 'completed' THEN 'backup.completed'
            WHEN 'failed' THEN 'backup.failed' END;
        -- What is made before a restore says nothing about the schedule, and mends nothing.
        IF told = 'backup.completed' AND NEW.kind <> 'pre_restore' THEN
            ended := pgseal.recovered_from(NEW.target, NEW.kind);
        END IF;
        IF told IS NOT NULL THEN
            PERFORM pgseal.tell(told, NEW.target, facts || pg_catalog.jsonb_build_object(
                'seconds', extract(epoch FROM NEW.finished_at - NEW.started_at),
                'plain_bytes', NEW.plain_bytes, 'sealed_bytes', NEW.sealed_bytes, 'tables', NEW.tables,
                'rows', NEW."rows", 'warnings', pg_catalog.cardinality(NEW.warnings),
                'recovered_from', ended,
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
    IF NEW.proof <> OLD.proof THEN
        told := CASE NEW.proof WHEN 'FAILED' THEN 'proof.failed' WHEN 'UNVERIFIABLE' THEN 'proof.unverifiable' END;
        -- Each new backup is drilled by the same server: that it cannot tell is news once after each proof.
        IF told = 'proof.unverifiable' AND OLD.proof <> 'PROVEN' AND EXISTS (SELECT FROM pgseal.events e
            WHERE e.target = NEW.target AND e.kind = told AND e.at > COALESCE(pgseal.last_proven(NEW.target), '-infinity')) THEN
            told := NULL;
        END IF;
        IF told IS NOT NULL THEN
            PERFORM pgseal.tell(told, NEW.target, facts || pg_catalog.jsonb_build_object(
                'seconds', NEW.proof_seconds, 'error', pgseal.without_its_middle(NEW.proof_reason)));
        END IF;
    END IF;
    RETURN NULL;
END
$$;
