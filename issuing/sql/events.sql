-- Identities made in the database, for rows that statements write by the thousand: UUIDv7 like those of config/ids.py.
CREATE FUNCTION new_id() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN encode(
        set_bit(set_bit(
            overlay(uuid_send(gen_random_uuid())
                    PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
            52, 1), 53, 1),
        'hex')::uuid;

-- The first transaction of this database that is still running: what older ones wrote is seen by the NEXT statement,
-- and none of them can write any more. Transactions of other databases of the server are left out; one of which nobody
-- can say whose it is counts as ours, so that in doubt an event is told later, and never missed.
CREATE FUNCTION events_settled_before() RETURNS xid8 LANGUAGE sql VOLATILE AS $$
    -- In this order, which only a materialized step makes certain: a transaction that is in the snapshot and no longer
    -- in the list of activity is over, so whether it is still running must be asked after the list was read.
    WITH ours AS MATERIALIZED (
        SELECT running FROM pg_snapshot_xip(pg_current_snapshot()) AS running
        WHERE NOT EXISTS (
            SELECT FROM pg_stat_activity a
            WHERE a.datname <> current_database()
              AND a.backend_xid::text::bigint = running::text::bigint % 4294967296)
    )
    SELECT coalesce(min(running), pg_snapshot_xmax(pg_current_snapshot()))
    FROM ours WHERE pg_xact_status(running) = 'in progress'
$$;
