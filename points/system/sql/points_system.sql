-- The points system's only writer of balances.
--
-- Everybody locks in the same order: the request_no of the message, that of the original it speaks of, the account. The
-- account is locked FIRST and its lots are read in a LATER statement: one statement that did both would read the lots as
-- they were before it waited, and take the same points twice. Reversals, returns and the one way in are in posting.sql.

CREATE SEQUENCE points_system_reference;

CREATE TYPE points_system_answer AS (code text, body jsonb, points bigint, reference text);

CREATE FUNCTION points_system_refused(p_code text, p_body jsonb DEFAULT '{}') RETURNS points_system_answer
    LANGUAGE sql IMMUTABLE RETURN ROW(p_code, p_body, 0, '')::points_system_answer;

CREATE FUNCTION points_system_next_reference() RETURNS text LANGUAGE sql VOLATILE
    RETURN 'B' || lpad(nextval('points_system_reference')::text, 11, '0');

-- count x ratio, rounded once on the total.
CREATE FUNCTION points_system_price(p_count bigint, p_ratio numeric, p_rounding text) RETURNS numeric
    LANGUAGE sql IMMUTABLE
    RETURN CASE p_rounding WHEN 'CEIL' THEN ceil(p_count * p_ratio)
                           WHEN 'FLOOR' THEN floor(p_count * p_ratio)
                           ELSE floor(p_count * p_ratio + 0.5) END;

CREATE FUNCTION points_system_deduct(p_id bigint, p_request_no text, p_body jsonb, p_now timestamptz, p_date date)
    RETURNS points_system_answer LANGUAGE plpgsql AS $$
DECLARE
    wanted bigint := p_body->>'points';
    coupons bigint := p_body->>'coupon_count';
    account points_system_account;
    ratio points_system_ratio;
    lot record;
    available bigint;
    missing bigint := wanted;
    part bigint;
    parts jsonb := '[]';
    reference text;
BEGIN
    IF EXISTS (SELECT FROM points_system_tombstone WHERE original = p_request_no) THEN
        RETURN points_system_refused('2003');
    END IF;
    SELECT * INTO ratio FROM points_system_ratio WHERE version = p_body->>'ratio_version';
    IF NOT FOUND OR ratio.exchange_ratio <> (p_body->>'exchange_ratio')::numeric
            OR ratio.rounding <> p_body->>'rounding' THEN
        RETURN points_system_refused('1004');
    END IF;
    IF wanted < 1 OR coupons < 1 OR wanted <> points_system_price(coupons, ratio.exchange_ratio, ratio.rounding) THEN
        RETURN points_system_refused('1003');
    END IF;

    SELECT * INTO account FROM points_system_account WHERE number = p_body->>'account' FOR NO KEY UPDATE;
    IF NOT FOUND OR account.state <> 'ACTIVE' THEN
        RETURN points_system_refused('1002');
    END IF;
    IF wanted > account.most_per_deduction OR wanted + (
        SELECT coalesce(sum(points), 0) FROM points_system_deduction
        WHERE account_id = account.id AND accounting_date = p_date AND state = 'DEDUCTED'
    ) > account.most_per_day THEN
        RETURN points_system_refused('1005');
    END IF;
    SELECT coalesce(sum(remaining), 0) INTO available FROM points_system_lot
    WHERE account_id = account.id AND remaining > 0 AND expires_date >= p_date;
    IF available < wanted THEN
        RETURN points_system_refused('1001');
    END IF;

    reference := points_system_next_reference();
    INSERT INTO points_system_deduction (request_id, account_id, points, coupon_count, ratio_version, bank_reference,
                                         accounting_date, state, returned)
    VALUES (p_id, account.id, wanted, coupons, ratio.version, reference, p_date, 'DEDUCTED', 0);
    FOR lot IN
        SELECT id, remaining, expires_date FROM points_system_lot
        WHERE account_id = account.id AND remaining > 0 AND expires_date >= p_date ORDER BY expires_date, id
    LOOP
        part := least(lot.remaining, missing);
        UPDATE points_system_lot SET remaining = remaining - part WHERE id = lot.id;
        INSERT INTO points_system_movement (lot_id, points, remaining_after, deduction_id, request_id, reason, moved_at)
        VALUES (lot.id, -part, lot.remaining - part, p_id, p_id, '', p_now);
        parts := parts || jsonb_build_object('lot', lot.id, 'points', part, 'expires', lot.expires_date);
        missing := missing - part;
        EXIT WHEN missing = 0;
    END LOOP;
    RETURN ROW('0000', jsonb_build_object('bank_reference', reference, 'points', wanted,
                                          'balance_after', available - wanted, 'lots', parts,
                                          'accounting_date', p_date), wanted, reference)::points_system_answer;
END $$;

-- Gives points of a deduction back to the very lots they came from, whether or not these have expired since; the lot
-- that was drawn last gets them first. The account is locked.
CREATE FUNCTION points_system_restore(p_id bigint, p_deduction bigint, p_points bigint, p_now timestamptz) RETURNS jsonb
    LANGUAGE plpgsql AS $$
DECLARE
    taken record;
    missing bigint := p_points;
    part bigint;
    after bigint;
    parts jsonb := '[]';
BEGIN
    FOR taken IN
        SELECT l.id, l.expires_date, -sum(m.points) AS points
        FROM points_system_movement m JOIN points_system_lot l ON l.id = m.lot_id
        WHERE m.deduction_id = p_deduction GROUP BY l.id HAVING sum(m.points) < 0 ORDER BY l.expires_date DESC, l.id DESC
    LOOP
        part := least(taken.points, missing);
        UPDATE points_system_lot SET remaining = remaining + part WHERE id = taken.id RETURNING remaining INTO after;
        INSERT INTO points_system_movement (lot_id, points, remaining_after, deduction_id, request_id, reason, moved_at)
        VALUES (taken.id, part, after, p_deduction, p_id, '', p_now);
        parts := parts || jsonb_build_object('lot', taken.id, 'points', part, 'expires', taken.expires_date);
        missing := missing - part;
        EXIT WHEN missing = 0;
    END LOOP;
    IF missing <> 0 THEN
        RAISE 'deduction % has no % points to give back', p_deduction, p_points;
    END IF;
    RETURN parts;
END $$;

-- The deduction that a request_no made, with its account locked; null if it made none.
CREATE FUNCTION points_system_locked(p_original text) RETURNS points_system_deduction LANGUAGE plpgsql AS $$
DECLARE
    deduction points_system_deduction;
BEGIN
    PERFORM FROM points_system_account a
        JOIN points_system_deduction d ON d.account_id = a.id JOIN points_system_request r ON r.id = d.request_id
        WHERE r.request_no = p_original FOR NO KEY UPDATE OF a;
    SELECT d.* INTO deduction FROM points_system_deduction d JOIN points_system_request r ON r.id = d.request_id
        WHERE r.request_no = p_original;
    RETURN deduction;
END $$;

CREATE FUNCTION points_system_advise(p_body jsonb, p_now timestamptz)
    RETURNS points_system_answer LANGUAGE plpgsql AS $$
DECLARE
    ratio points_system_ratio;
BEGIN
    INSERT INTO points_system_ratio (version, product, exchange_ratio, rounding, advised_at)
    VALUES (p_body->>'ratio_version', p_body->>'product', (p_body->>'exchange_ratio')::numeric, p_body->>'rounding',
            p_now)
    ON CONFLICT (version) DO NOTHING;
    SELECT * INTO ratio FROM points_system_ratio WHERE version = p_body->>'ratio_version';
    IF ratio.product <> p_body->>'product' OR ratio.exchange_ratio <> (p_body->>'exchange_ratio')::numeric
            OR ratio.rounding <> p_body->>'rounding' THEN
        RETURN points_system_refused('2001');
    END IF;
    RETURN ROW('0000', jsonb_build_object('ratio_version', ratio.version), 0, '')::points_system_answer;
END $$;

-- Movements are the proof of every balance.
CREATE FUNCTION points_system_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE 'movements are never changed';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE ON points_system_movement
    FOR EACH ROW EXECUTE FUNCTION points_system_append_only();
