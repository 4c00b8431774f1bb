-- A backup whose object is what was stored, to the byte, and whose content is another thing than the manifest says. CORRUPT says
-- that one copy is at fault, or that somebody has to look; this says that every copy is as bad, so that a second one makes it no
-- better, and retention does not count it.

ALTER TABLE pgseal.backups
    DROP CONSTRAINT backups_health_check,
    ADD CONSTRAINT backups_health_check CHECK (health IN ('ok', 'CORRUPT', 'ALTERED', 'SUSPICIOUS', 'lost'));

-- To whoever is told, it is one thing: the backup cannot be relied on.
CREATE FUNCTION pgseal.tell_of_an_altered_backup() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    PERFORM pgseal.tell('backup.corrupt', NEW.target, pg_catalog.jsonb_build_object(
        'database', NEW.database, 'backup_id', NEW.id, 'backup_kind', NEW.kind, 'object_key', NEW.object_key,
        'health', NEW.health, 'attempt', NEW.attempt, 'requested_by', pg_catalog.left(NEW.requested_by, 200),
        'error', pgseal.without_its_middle(NEW.health_reason)));
    RETURN NULL;
END
$$;

CREATE TRIGGER tell_of_an_altered_backup AFTER UPDATE OF health ON pgseal.backups
    FOR EACH ROW WHEN (NEW.health = 'ALTERED' AND OLD.health <> 'ALTERED')
    EXECUTE FUNCTION pgseal.tell_of_an_altered_backup();
