-- What the API needs beside jobs: who did what, which requests were made already, and lists that are quick when long.

-- Every administrative act, for good.
CREATE TABLE pgseal.audit (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    subject    text NOT NULL CHECK (subject <> ''),
    action     text NOT NULL CHECK (action <> ''),
    backup_id  bigint,
    restore_id bigint,
    -- The address that the connection came from; behind a proxy, the proxy's.
    origin     text NOT NULL,
    request_id uuid NOT NULL,
    -- `accepted`, `done`, or the code of the problem that it ended in.
    outcome    text NOT NULL CHECK (outcome <> '')
);

CREATE INDEX audit_of_backup ON pgseal.audit (backup_id, id) WHERE backup_id IS NOT NULL;
CREATE INDEX audit_of_subject ON pgseal.audit (subject, id);

CREATE FUNCTION pgseal.keep_the_audit() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    RAISE EXCEPTION 'the audit table only grows'
        USING ERRCODE = 'restrict_violation', CONSTRAINT = 'keep_the_audit';
END
$$;

CREATE TRIGGER keep_the_audit BEFORE UPDATE OR DELETE ON pgseal.audit
    FOR EACH ROW EXECUTE FUNCTION pgseal.keep_the_audit();
CREATE TRIGGER keep_the_whole_audit BEFORE TRUNCATE ON pgseal.audit
    FOR EACH STATEMENT EXECUTE FUNCTION pgseal.keep_the_audit();

-- A request that is sent again with the same key is the same request. The answer is made from the backup's row.
CREATE TABLE pgseal.idempotency_keys (
    subject    text NOT NULL,
    key        text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    digest     bytea NOT NULL CHECK (octet_length(digest) = 32),
    backup_id  bigint NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (subject, key)
);

CREATE INDEX idempotency_keys_expired ON pgseal.idempotency_keys (expires_at);

-- Lists by one property, newest first.
CREATE INDEX backups_by_status ON pgseal.backups (status, created_at DESC, id DESC);
CREATE INDEX backups_by_kind ON pgseal.backups (kind, created_at DESC, id DESC);
CREATE INDEX backups_by_database ON pgseal.backups (database, created_at DESC, id DESC);
CREATE INDEX backups_failed ON pgseal.backups (error_stage) WHERE status = 'failed';
CREATE INDEX backups_last_success ON pgseal.backups (target, database, finished_at DESC)
    WHERE status = 'completed' AND health = 'ok';
CREATE INDEX restores_by_status ON pgseal.restores (status, created_at DESC, id DESC);

-- A backup may be deleted, object and row, when nothing needs it any more; what was restored from it stays recorded under
-- its number. So the two references are held by triggers, where foreign keys would hold the backup for ever.
ALTER TABLE pgseal.restores DROP CONSTRAINT restores_backup_id_fkey;
ALTER TABLE pgseal.restores DROP CONSTRAINT restores_safety_backup_id_fkey;

CREATE FUNCTION pgseal.restore_what_is_there() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    -- Locked, so that nobody deletes it meanwhile.
    PERFORM FROM pgseal.backups WHERE id = NEW.backup_id FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no backup %', NEW.backup_id
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'restore_what_is_there';
    END IF;
    IF NEW.safety_backup_id IS NOT NULL THEN
        PERFORM FROM pgseal.backups WHERE id = NEW.safety_backup_id FOR KEY SHARE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'there is no backup %', NEW.safety_backup_id
                USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'restore_what_is_there';
        END IF;
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION pgseal.keep_what_is_needed() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    IF OLD.status IN ('pending', 'running') THEN
        RAISE EXCEPTION 'backup % is %', OLD.id, OLD.status
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'keep_what_is_needed';
    END IF;
    PERFORM FROM pgseal.restores WHERE (backup_id = OLD.id OR safety_backup_id = OLD.id)
        AND status IN ('waiting', 'pending', 'running');
    IF FOUND THEN
        RAISE EXCEPTION 'a restore needs backup %', OLD.id
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'keep_what_is_needed';
    END IF;
    RETURN OLD;
END
$$;

CREATE TRIGGER restore_what_is_there BEFORE INSERT OR UPDATE OF backup_id, safety_backup_id ON pgseal.restores
    FOR EACH ROW EXECUTE FUNCTION pgseal.restore_what_is_there();
CREATE TRIGGER keep_what_is_needed BEFORE DELETE ON pgseal.backups
    FOR EACH ROW EXECUTE FUNCTION pgseal.keep_what_is_needed();
