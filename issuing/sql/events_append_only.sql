CREATE FUNCTION events_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE 'issuing_event is append-only: what happened is never changed';
END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON issuing_event
    FOR EACH ROW EXECUTE FUNCTION events_refuse_change();
REVOKE UPDATE, DELETE, TRUNCATE ON issuing_event FROM prepaid_app;
