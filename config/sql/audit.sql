-- What staff did follows row upon row; nobody changes it, not even the owner of the table without leaving a trace.

-- The last row, under the lock that lasts until the commit: whoever has it writes the next one.
CREATE FUNCTION audit_head() RETURNS TABLE (seq bigint, hash varchar) LANGUAGE plpgsql AS $$
BEGIN
    -- Foreign keys are else looked at in the commit, where they may wait for a row of somebody who waits for this
    -- lock: both would wait for ever. So they are looked at before it is taken.
    SET CONSTRAINTS ALL IMMEDIATE;
    SET CONSTRAINTS ALL DEFERRED;
    PERFORM pg_advisory_xact_lock(7163850294);
    -- A statement of its own: it sees what was committed while the lock was waited for.
    RETURN QUERY SELECT a.seq, a.hash FROM config_act a ORDER BY a.seq DESC LIMIT 1;
END $$;

CREATE FUNCTION audit_follows() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last record;
BEGIN
    SELECT * INTO last FROM audit_head();
    IF NEW.seq <> coalesce(last.seq, 0) + 1 OR NEW.previous <> coalesce(last.hash, repeat('0', 64)) THEN
        RAISE 'config_act is a chain: a row follows the last one';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION audit_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE 'config_act is append-only: what staff did is never changed';
END $$;

CREATE TRIGGER follows BEFORE INSERT ON config_act FOR EACH ROW EXECUTE FUNCTION audit_follows();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON config_act FOR EACH ROW EXECUTE FUNCTION audit_refuse_change();

REVOKE UPDATE, DELETE, TRUNCATE ON config_act FROM prepaid_app;
