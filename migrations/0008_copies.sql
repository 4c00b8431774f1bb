-- The second copy of each backup, in another store under the same key: what is known of it.
--
--   none -> pending -> confirmed | failed; failed -> pending or confirmed, when it is tried again; any -> none, when somebody
--   finds that it is not there
--
-- Confirmed is only what was read back, with the digest that the manifest records: the constraint holds the two together, so
-- that no program can call a backup replicated whose copy has another one.

ALTER TABLE pgseal.backups
    ADD COLUMN copy_state text NOT NULL DEFAULT 'none' CHECK (copy_state IN ('none', 'pending', 'confirmed', 'failed')),
    -- When that was found out.
    ADD COLUMN copy_at timestamptz,
    -- The second store.
    ADD COLUMN copy_place text,
    -- What the second store gave back, digested.
    ADD COLUMN copy_sha256 bytea CHECK (octet_length(copy_sha256) = 32),
    -- Why the last try came to nothing.
    ADD COLUMN copy_error text,
    ADD CONSTRAINT backups_copy_of_what CHECK (copy_state = 'none' OR status = 'completed'),
    ADD CONSTRAINT backups_copy_at CHECK (copy_state = 'none' OR copy_at IS NOT NULL),
    ADD CONSTRAINT backups_copy_failed CHECK (copy_state <> 'failed' OR copy_error IS NOT NULL),
    ADD CONSTRAINT backups_copy_confirmed CHECK (
        (copy_state = 'confirmed') = (copy_sha256 IS NOT NULL)
        AND (copy_sha256 IS NULL OR copy_sha256 IS NOT DISTINCT FROM sealed_sha256)
        AND (copy_state <> 'confirmed' OR copy_place IS NOT NULL)
    );

-- What waits for its copy, and what there is to count.
CREATE INDEX backups_not_replicated ON pgseal.backups (finished_at)
    WHERE status = 'completed' AND uid IS NOT NULL AND copy_state <> 'confirmed';

-- A copy that came to nothing is told once, and again only after it went well in between. The backup's own verdict stands.
CREATE FUNCTION pgseal.tell_of_a_copy() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    PERFORM pgseal.tell('copy.failed', NEW.target, pg_catalog.jsonb_build_object(
        'database', NEW.database, 'backup_id', NEW.id, 'backup_kind', NEW.kind, 'object_key', NEW.object_key,
        'sealed_bytes', NEW.sealed_bytes, 'error', pgseal.without_its_middle(NEW.copy_error)));
    RETURN NULL;
END
$$;

CREATE TRIGGER tell_of_a_copy AFTER UPDATE OF copy_state ON pgseal.backups
    FOR EACH ROW WHEN (NEW.copy_state = 'failed' AND OLD.copy_state <> 'failed')
    EXECUTE FUNCTION pgseal.tell_of_a_copy();
