-- What a message may do besides deducting, and the one way in.
--
-- points_system_post answers one message: the effect, the first answer and the message are written together or not at
-- all. A reversal and a return say on which accounting date they count, since an answer may be heard days later.

CREATE FUNCTION points_system_reverse(p_id bigint, p_request_no text, p_body jsonb, p_now timestamptz, p_date date)
    RETURNS points_system_answer LANGUAGE plpgsql AS $$
DECLARE
    p_original text := p_body->>'original';
    earlier points_system_request;
    deduction points_system_deduction;
    parts jsonb;
    reference text;
BEGIN
    -- The original may be arriving at this moment: either it is seen here or it sees the tombstone.
    PERFORM pg_advisory_xact_lock(hashtextextended(p_original, 0));
    IF EXISTS (SELECT FROM points_system_tombstone WHERE original = p_original) THEN
        RETURN points_system_refused('2003', '{"original_state": "REVERSED"}');
    END IF;
    SELECT * INTO earlier FROM points_system_request WHERE request_no = p_original;
    IF NOT FOUND THEN
        INSERT INTO points_system_tombstone (original, request_no, at) VALUES (p_original, p_request_no, p_now);
        RETURN ROW('0000', jsonb_build_object('original_found', false, 'original_state', 'REVERSED', 'points', 0,
                                              'bank_reference', '', 'lots', '[]'::jsonb, 'accounting_date', p_date,
                                              'original_date', NULL), 0, '')::points_system_answer;
    ELSIF earlier.type <> 'DEDUCTION_REQUEST' THEN
        RETURN points_system_refused('2002');
    ELSIF earlier.code <> '0000' THEN
        RETURN ROW('0000', jsonb_build_object('original_found', true, 'original_state', 'REFUSED', 'points', 0,
                                              'bank_reference', '', 'lots', '[]'::jsonb, 'accounting_date', p_date,
                                              'original_date', NULL), 0, '')::points_system_answer;
    END IF;
    deduction := points_system_locked(p_original);
    IF deduction.state = 'REVERSED' OR deduction.returned > 0 THEN
        RETURN points_system_refused('2003', jsonb_build_object('original_state', deduction.state));
    ELSIF deduction.points <> (p_body->>'points')::bigint THEN
        RETURN points_system_refused('1003');
    END IF;
    parts := points_system_restore(p_id, deduction.request_id, deduction.points, p_now);
    UPDATE points_system_deduction SET state = 'REVERSED', reversed_by_id = p_id
    WHERE request_id = deduction.request_id;
    reference := points_system_next_reference();
    RETURN ROW('0000', jsonb_build_object('original_found', true, 'original_state', 'REVERSED',
                                          'points', deduction.points, 'bank_reference', reference, 'lots', parts,
                                          'accounting_date', p_date, 'original_date', deduction.accounting_date),
               deduction.points, reference)::points_system_answer;
END $$;

CREATE FUNCTION points_system_return(p_id bigint, p_body jsonb, p_now timestamptz, p_date date)
    RETURNS points_system_answer LANGUAGE plpgsql AS $$
DECLARE
    p_return_no text := p_body->>'return_no';
    given bigint := p_body->>'points';
    numbers text[] := ARRAY(SELECT jsonb_array_elements_text(p_body->'coupons'));
    deduction points_system_deduction;
    before bigint;
    parts jsonb;
    reference text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('return ' || p_return_no, 0));
    IF EXISTS (SELECT FROM points_system_return WHERE return_no = p_return_no) THEN
        RETURN points_system_refused('2001');
    END IF;
    IF given < 1 THEN
        RETURN points_system_refused('1003');
    END IF;
    deduction := points_system_locked(p_body->>'original');
    IF deduction.request_id IS NULL THEN
        RETURN points_system_refused('2002');
    END IF;
    SELECT coalesce(sum(cardinality(coupons)), 0) INTO before FROM points_system_return
    WHERE deduction_id = deduction.request_id;
    IF deduction.state = 'REVERSED' OR EXISTS (
        SELECT FROM points_system_return WHERE deduction_id = deduction.request_id AND coupons::text[] && numbers
    ) THEN
        RETURN points_system_refused('2003');
    ELSIF deduction.returned + given > deduction.points OR before + cardinality(numbers) > deduction.coupon_count THEN
        RETURN points_system_refused('1005');
    END IF;
    parts := points_system_restore(p_id, deduction.request_id, given, p_now);
    UPDATE points_system_deduction SET returned = returned + given WHERE request_id = deduction.request_id;
    INSERT INTO points_system_return (request_id, return_no, deduction_id, points, coupons)
    VALUES (p_id, p_return_no, deduction.request_id, given, numbers);
    reference := points_system_next_reference();
    RETURN ROW('0000', jsonb_build_object('return_no', p_return_no, 'points', given, 'bank_reference', reference,
                                          'lots', parts, 'returned', deduction.returned + given,
                                          'accounting_date', p_date),
               given, reference)::points_system_answer;
END $$;

-- The one way in. The first answer to a request_no is the answer for ever, and other content under it is refused;
-- until told_from_at, which is how being late is had on demand, it is in progress. Called without a p_misbehaviour it
-- does nothing, and answers with an empty code, where one is asked for: that saves those who behave a question before.
CREATE FUNCTION points_system_post(
    p_message_id text, p_type text, p_request_no text, p_fingerprint text, p_body jsonb, p_content bytea,
    p_misbehaviour text, p_now timestamptz, p_date date, p_told_from timestamptz
) RETURNS points_system_answer LANGUAGE plpgsql AS $$
DECLARE
    earlier points_system_request;
    answer points_system_answer;
    new_id bigint;
BEGIN
    IF p_misbehaviour IS NULL AND EXISTS (
        SELECT FROM points_system_behaviour
        WHERE kind <> 'GOOD' AND type IN ('', p_type) AND (remaining IS NULL OR remaining > 0)
    ) THEN
        RETURN points_system_refused('');
    END IF;
    IF EXISTS (SELECT FROM points_system_message WHERE message_id = p_message_id) THEN
        RETURN points_system_refused('3003');
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended(p_request_no, 0));
    SELECT * INTO earlier FROM points_system_request WHERE request_no = p_request_no;
    IF NOT FOUND THEN
        new_id := nextval('points_system_request_id_seq');
        answer := CASE p_type
            WHEN 'DEDUCTION_REQUEST' THEN points_system_deduct(new_id, p_request_no, p_body, p_now, p_date)
            WHEN 'REVERSAL_ADVICE' THEN points_system_reverse(new_id, p_request_no, p_body, p_now, p_date)
            WHEN 'RETURN_REQUEST' THEN points_system_return(new_id, p_body, p_now, p_date)
            WHEN 'RATIO_ADVICE' THEN points_system_advise(p_body, p_now)
        END;
        INSERT INTO points_system_request (id, request_no, type, fingerprint, code, answer, points, bank_reference,
                                           posted_at, accounting_date, told_from_at, original)
        VALUES (new_id, p_request_no, p_type, p_fingerprint, answer.code, answer.body, answer.points, answer.reference,
                p_now, p_date, p_told_from, coalesce(p_body->>'original', ''));
    ELSIF earlier.fingerprint <> p_fingerprint THEN
        answer := points_system_refused('2001');
    ELSIF earlier.told_from_at > p_now THEN
        answer := points_system_refused('9998');
    ELSE
        answer := ROW(earlier.code, earlier.answer, earlier.points, earlier.bank_reference)::points_system_answer;
    END IF;
    INSERT INTO points_system_message (message_id, type, request_no, content, code, answer, misbehaviour, received_at)
    VALUES (p_message_id, p_type, p_request_no, p_content, answer.code, answer.body, coalesce(p_misbehaviour, ''), p_now);
    RETURN answer;
END $$;
