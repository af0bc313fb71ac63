-- The ledger: the only writer of balances.
--
-- Every function locks the card FIRST and reads its sub-cards in a LATER statement. One statement that does both
-- reads the sub-cards in a snapshot older than the lock it waited for, and draws the same money twice.
--
-- A refusal is returned, not raised: nothing has been written when it is, and the caller's transaction lives on.
-- The functions run as their owner (SECURITY DEFINER); the role of the application may call them and nothing else.

-- Room on every page for the next version of a row: a balance then changes without touching an index.
ALTER TABLE prepaid_card SET (fillfactor = 80);
ALTER TABLE prepaid_load SET (fillfactor = 80);
ALTER TABLE prepaid_subcard SET (fillfactor = 80);

-- Rounding -----------------------------------------------------------------------------------------------------
-- The same half-up as config/money.py, for what is computed set by set; tests hold the two together.

CREATE FUNCTION half_up(n numeric) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN floor(n + 0.5)::bigint;

-- In plpgsql where a function cannot be inlined: PostgreSQL plans an SQL function anew at every call.
CREATE FUNCTION fraction_add(state numeric[], n numeric, d numeric) RETURNS numeric[]
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
    RETURN ARRAY[state[1] * d + n * state[2], state[2] * d];
END $$;

CREATE FUNCTION fraction_half_up(state numeric[]) RETURNS bigint LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
    RETURN div(2 * state[1] + state[2], 2 * state[2]);
END $$;

-- Sum of n/d as an exact fraction, rounded half-up once. numeric division would round every summand first.
CREATE AGGREGATE half_up_sum(n numeric, d numeric) (
    SFUNC = fraction_add, STYPE = numeric[], INITCOND = '{0,1}', FINALFUNC = fraction_half_up, PARALLEL = SAFE
);

-- Valuation ----------------------------------------------------------------------------------------------------

-- Days of a load not yet served on a local date: the day of purchase is the first one served.
-- `remaining` is `face` while the load lives and 0 once it was taken off.
CREATE FUNCTION days_left(remaining bigint, face bigint, starts_on date, on_date date) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN greatest(0, remaining - least(face, greatest(0, on_date - starts_on)));

-- Refundable principal of a card on a local date: paid x remaining / face summed over its loads, in fen; of those
-- paid in from `p_since` on only, where that is given.
CREATE FUNCTION ledger_refundable(p_card uuid, p_unit text, p_date date, p_since timestamptz DEFAULT NULL)
RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE load record; n numeric := 0; d numeric := 1;
BEGIN
    FOR load IN
        SELECT paid, face, CASE p_unit WHEN 'DAYS' THEN days_left(remaining, face, starts_on_date, p_date)
                           ELSE remaining END AS held
        FROM prepaid_load WHERE card_id = p_card AND remaining > 0 AND (p_since IS NULL OR occurred_at >= p_since)
    LOOP
        n := n * load.face + load.paid::numeric * load.held * d;
        d := d * load.face;
    END LOOP;
    RETURN div(2 * n + d, 2 * d);
END $$;

CREATE FUNCTION ledger_usable(p_card prepaid_card, p_date date) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF p_card.unit <> 'DAYS' THEN RETURN p_card.remaining; END IF;
    RETURN (SELECT coalesce(sum(days_left(remaining, face, starts_on_date, p_date)), 0)
            FROM prepaid_load WHERE card_id = p_card.id AND remaining > 0);
END $$;

-- Answers ------------------------------------------------------------------------------------------------------

CREATE TYPE ledger_answer AS (
    refusal text, detail text, replayed boolean,
    id uuid, card_id uuid, kind text, original_id uuid, unit text,
    list_amount bigint, charged_amount bigint, amount bigint, principal bigint, gift bigint,
    usable_after bigint, refundable_after bigint,
    reference text, store text, occurred_at timestamptz, recorded_at timestamptz,
    seqs int[], amounts bigint[], balances bigint[]
);

CREATE FUNCTION ledger_refused(p_refusal text, p_detail text DEFAULT NULL) RETURNS ledger_answer
    LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE a ledger_answer;
BEGIN
    a.refusal := p_refusal; a.detail := p_detail;
    RETURN a;
END $$;

CREATE FUNCTION ledger_answer_of(p_transaction uuid, p_replayed boolean) RETURNS ledger_answer
    LANGUAGE sql STABLE AS $$
    SELECT NULL::text, NULL::text, p_replayed, t.id, t.card_id, t.kind, t.original_id, t.unit,
           t.list_amount, t.charged_amount, t.amount, t.principal, t.gift, t.usable_after, t.refundable_after,
           t.reference, t.store, t.occurred_at, t.recorded_at,
           coalesce(e.seqs, '{}'), coalesce(e.amounts, '{}'), coalesce(e.balances, '{}')
    FROM prepaid_transaction t
    CROSS JOIN LATERAL (
        SELECT array_agg(s.seq::int ORDER BY e.id) AS seqs, array_agg(e.amount ORDER BY e.id) AS amounts,
               array_agg(e.balance_after ORDER BY e.id) AS balances
        FROM prepaid_entry e JOIN prepaid_subcard s ON s.id = e.sub_card_id WHERE e.transaction_id = t.id
    ) e
    WHERE t.id = p_transaction
$$;

-- What was answered before to this key; NULL when the key is new. A used reference is refused by name.
CREATE FUNCTION ledger_seen(
    p_merchant uuid, p_kind text, p_reference text, p_key text, p_fingerprint text
) RETURNS ledger_answer LANGUAGE plpgsql STABLE AS $$
DECLARE seen record;
BEGIN
    IF p_key IS NOT NULL THEN
        SELECT t.id, t.fingerprint INTO seen FROM prepaid_transaction t
        WHERE t.merchant_id = p_merchant AND t.idempotency_key = p_key;
        IF FOUND THEN
            IF seen.fingerprint <> p_fingerprint THEN RETURN ledger_refused('IdempotencyKeyReused'); END IF;
            RETURN ledger_answer_of(seen.id, true);
        END IF;
        -- A key that was used for something else than a transaction is used, too.
        IF EXISTS (SELECT FROM prepaid_storedanswer a WHERE a.merchant_id = p_merchant AND a.key = p_key) THEN
            RETURN ledger_refused('IdempotencyKeyReused');
        END IF;
    END IF;
    SELECT t.id INTO seen FROM prepaid_transaction t
    WHERE t.merchant_id = p_merchant AND t.kind = p_kind AND t.reference = p_reference;
    IF FOUND THEN RETURN ledger_refused('ReferenceUsed', seen.id::text); END IF;
    RETURN NULL;
END $$;

-- Loading ------------------------------------------------------------------------------------------------------

-- Writes loads with their sub-cards, opening transactions and entries. Load i belongs to card p_card[i]; sub-card
-- k belongs to load p_sub_load[k], counted from 1. A load's opening transaction has the load's own identity.
CREATE FUNCTION ledger_write_loads(
    p_kind text, p_now timestamptz,
    p_load uuid[], p_card uuid[], p_seq int[], p_reference text[], p_paid bigint[], p_bonus bigint[],
    p_face bigint[], p_method text[], p_starts date[], p_occurred timestamptz[],
    p_usable_after bigint[], p_refundable_after bigint[], p_key text, p_fingerprint text,
    p_sub_load int[], p_sub_seq int[], p_sub_paid bigint[], p_sub_face bigint[]
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO prepaid_load (id, card_id, merchant_id, seq, kind, reference, paid, bonus, face, remaining,
                              payment_method, starts_on_date, occurred_at, recorded_at)
    SELECT l.load, l.card, c.merchant_id, l.seq, p_kind, l.reference, l.paid, l.bonus, l.face, l.face,
           l.method, l.starts, l.occurred, p_now
    FROM unnest(p_load, p_card, p_seq, p_reference, p_paid, p_bonus, p_face, p_method, p_starts, p_occurred)
         AS l(load, card, seq, reference, paid, bonus, face, method, starts, occurred)
    JOIN prepaid_card c ON c.id = l.card;

    INSERT INTO prepaid_transaction (id, card_id, merchant_id, kind, unit, amount, principal, gift, usable_after,
                                     refundable_after, reference, store, idempotency_key, fingerprint,
                                     occurred_at, recorded_at)
    SELECT l.load, l.card, c.merchant_id, p_kind, c.unit, l.face, l.paid, l.bonus, l.usable_after,
           l.refundable_after, l.reference, '', p_key, coalesce(p_fingerprint, ''), l.occurred, p_now
    FROM unnest(p_load, p_card, p_reference, p_paid, p_bonus, p_face, p_occurred, p_usable_after,
                p_refundable_after)
         AS l(load, card, reference, paid, bonus, face, occurred, usable_after, refundable_after)
    JOIN prepaid_card c ON c.id = l.card;

    WITH sub AS (
        INSERT INTO prepaid_subcard (card_id, load_id, seq, paid, face, remaining)
        SELECT p_card[s.load], p_load[s.load], s.seq, s.paid, s.face, s.face
        FROM unnest(p_sub_load, p_sub_seq, p_sub_paid, p_sub_face) AS s(load, seq, paid, face)
        RETURNING id, card_id, load_id, face
    )
    INSERT INTO prepaid_entry (transaction_id, card_id, sub_card_id, amount, balance_after)
    SELECT load_id, card_id, id, face, face FROM sub ORDER BY id;

    INSERT INTO issuing_event (merchant_id, type, subject_id, card_id, state, amount, recorded_at)
    SELECT c.merchant_id, CASE p_kind WHEN 'PURCHASE' THEN 'card.opened' ELSE 'card.topped_up' END, c.id, c.id,
           c.state, l.paid, p_now
    FROM unnest(p_card, p_paid) AS l(card, paid) JOIN prepaid_card c ON c.id = l.card;
END $$;

-- Opens n cards, each with its first load. Returns nothing; a used reference or number is a unique violation.
CREATE FUNCTION ledger_open(
    p_batch uuid, p_now timestamptz,
    p_card uuid[], p_program uuid[], p_account uuid[], p_number_hash text[], p_last4 text[], p_sealed bytea[],
    p_expires date[], p_load uuid[], p_reference text[], p_paid bigint[], p_bonus bigint[], p_face bigint[],
    p_method text[], p_starts date[], p_occurred timestamptz[], p_key text, p_fingerprint text,
    p_sub_load int[], p_sub_seq int[], p_sub_paid bigint[], p_sub_face bigint[]
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
-- One plan for all slices: planned anew for arrays of hundreds, each statement cost a tenth more.
SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    IF EXISTS (SELECT FROM prepaid_retirednumber WHERE number_hash = ANY (p_number_hash)) THEN
        RAISE unique_violation USING MESSAGE = 'a dead card''s number is never given out again';
    END IF;
    INSERT INTO prepaid_card (id, merchant_id, program_id, network_account_id, batch_id, kind, unit, number_hash,
                              last4, number_sealed, state, remaining, awaits_cover, expires_on_date, opened_at,
                              recorded_at)
    SELECT n.card, p.merchant_id, p.id, n.account, p_batch, p.kind,
           CASE p.kind WHEN 'TIMES' THEN 'USES' WHEN 'ENTITLEMENT' THEN 'DAYS' ELSE 'MONEY' END,
           n.number_hash, n.last4, n.sealed, 'ACTIVE', n.face, NOT p.spend_before_cover, n.expires, n.occurred, p_now
    FROM unnest(p_card, p_program, p_account, p_number_hash, p_last4, p_sealed, p_expires, p_face, p_occurred)
         AS n(card, program, account, number_hash, last4, sealed, expires, face, occurred)
    JOIN issuing_cardprogram p ON p.id = n.program;
    PERFORM ledger_write_loads(
        'PURCHASE', p_now, p_load, p_card, array_fill(1, ARRAY[cardinality(p_card)]), p_reference, p_paid, p_bonus,
        p_face, p_method, p_starts, p_occurred, p_face, p_paid, p_key, p_fingerprint,
        p_sub_load, p_sub_seq, p_sub_paid, p_sub_face
    );
END $$;

-- Adds a load to a card. Sub-cards are numbered on from those the card has. A term follows on the last one.
CREATE FUNCTION ledger_top_up(
    p_merchant uuid, p_card uuid, p_load uuid, p_reference text, p_paid bigint, p_bonus bigint, p_face bigint,
    p_method text, p_today date, p_occurred timestamptz, p_now timestamptz, p_key text, p_fingerprint text,
    p_sub_paid bigint[], p_sub_face bigint[]
) RETURNS ledger_answer LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    card prepaid_card; seen ledger_answer; first_seq int; load_seq int; starts date; n int := cardinality(p_sub_face);
BEGIN
    SELECT * INTO card FROM prepaid_card WHERE id = p_card AND merchant_id = p_merchant FOR UPDATE;
    IF NOT FOUND THEN RETURN ledger_refused('CardNotFound'); END IF;
    seen := ledger_seen(p_merchant, 'TOP_UP', p_reference, p_key, p_fingerprint);
    IF seen IS DISTINCT FROM NULL THEN RETURN seen; END IF;
    IF card.state <> 'ACTIVE' THEN RETURN ledger_refused('CardNotActive', card.state); END IF;
    IF p_occurred < card.opened_at THEN RETURN ledger_refused('BeforeOpening'); END IF;
    -- Money on it could not be spent.
    IF p_today > card.expires_on_date THEN RETURN ledger_refused('CardExpired', card.expires_on_date::text); END IF;
    SELECT coalesce(max(seq), 0) INTO first_seq FROM prepaid_subcard WHERE card_id = p_card;
    -- Sub-cards and loads are numbered by smallint.
    IF first_seq + n > 32767 THEN RETURN ledger_refused('CardFull'); END IF;
    SELECT max(seq), CASE card.unit WHEN 'DAYS' THEN greatest(p_today, max(starts_on_date + face::int)) ELSE p_today END
        INTO load_seq, starts FROM prepaid_load WHERE card_id = p_card;
    UPDATE prepaid_card SET remaining = remaining + p_face WHERE id = p_card RETURNING * INTO card;
    PERFORM ledger_write_loads(
        'TOP_UP', p_now, ARRAY[p_load], ARRAY[p_card], ARRAY[load_seq + 1], ARRAY[p_reference], ARRAY[p_paid],
        ARRAY[p_bonus], ARRAY[p_face], ARRAY[p_method], ARRAY[starts], ARRAY[p_occurred],
        ARRAY[p_face + CASE card.unit WHEN 'DAYS' THEN ledger_usable(card, p_today) ELSE card.remaining - p_face END],
        -- Read before the new load is written; the new load has nothing drawn, so what it adds is what was paid.
        ARRAY[ledger_refundable(p_card, card.unit, p_today) + p_paid],
        p_key, p_fingerprint,
        array_fill(1, ARRAY[n]), ARRAY(SELECT first_seq + i FROM generate_series(1, n) i), p_sub_paid, p_sub_face
    );
    RETURN ledger_answer_of(p_load, false);
END $$;

-- Paying -------------------------------------------------------------------------------------------------------

-- Gives back to a compensated card what a payment from before the loss, arriving late, will draw. Writes the
-- sub-cards and loads only: the payment that follows writes the card.
CREATE FUNCTION ledger_correct_compensation(p_card prepaid_card, p_amount bigint, p_payment uuid, p_now timestamptz)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE compensation uuid; correction uuid := gen_random_uuid(); part record; wanted bigint := p_amount;
BEGIN
    SELECT id INTO compensation FROM prepaid_transaction
    WHERE card_id = p_card.id AND kind = 'COMPENSATION' ORDER BY recorded_at, id LIMIT 1;
    INSERT INTO prepaid_transaction (id, card_id, merchant_id, kind, original_id, unit, amount, principal, gift,
                                     usable_after, refundable_after, reference, store, fingerprint, occurred_at,
                                     recorded_at)
    VALUES (correction, p_card.id, p_card.merchant_id, 'COMPENSATION_CORRECTION', compensation, p_card.unit,
            p_amount, 0, 0, p_card.remaining + p_amount, 0, p_payment::text, '', '', p_now, p_now);
    FOR part IN
        SELECT s.id, s.load_id, s.remaining, -sum(e.amount) AS taken
        FROM prepaid_entry e
        JOIN prepaid_transaction t ON t.id = e.transaction_id
        JOIN prepaid_subcard s ON s.id = e.sub_card_id
        WHERE e.card_id = p_card.id AND t.kind IN ('COMPENSATION', 'COMPENSATION_CORRECTION')
        GROUP BY s.id HAVING -sum(e.amount) > 0 ORDER BY s.seq
    LOOP
        EXIT WHEN wanted = 0;
        part.taken := least(part.taken, wanted);
        UPDATE prepaid_subcard SET remaining = remaining + part.taken WHERE id = part.id;
        UPDATE prepaid_load SET remaining = remaining + part.taken WHERE id = part.load_id;
        INSERT INTO prepaid_entry (transaction_id, card_id, sub_card_id, amount, balance_after)
        VALUES (correction, p_card.id, part.id, part.taken, part.remaining + part.taken);
        wanted := wanted - part.taken;
    END LOOP;
    RETURN wanted = 0;
END $$;

-- One payment. MONEY and DAYS are asked for by list price, USES by their number.
CREATE FUNCTION ledger_pay(
    p_id uuid, p_merchant uuid, p_card uuid, p_list bigint, p_uses bigint, p_reference text, p_store text,
    p_key text, p_fingerprint text, p_occurred timestamptz, p_now timestamptz
) RETURNS ledger_answer LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    card record; part record; answer ledger_answer; draw bigint; wanted bigint; drawn bigint; charged bigint; today date;
    is_late boolean; usable bigint := 0; n numeric := 0; d numeric := 1; i int;
    loads uuid[]; paid bigint[]; face bigint[]; held bigint[];
BEGIN
    -- The program's terms come with the lock: each statement less is a tenth of a payment's time.
    SELECT c.unit, c.state, c.remaining, c.awaits_cover, c.expires_on_date, c.opened_at, c.loss_at,
           p.rate, p.draw_order, m.time_zone
    INTO card
    FROM prepaid_card c JOIN issuing_cardprogram p ON p.id = c.program_id JOIN issuing_merchant m ON m.id = c.merchant_id
    WHERE c.id = p_card AND c.merchant_id = p_merchant FOR UPDATE OF c;
    IF NOT FOUND THEN RETURN ledger_refused('CardNotFound'); END IF;
    answer := ledger_seen(p_merchant, 'PAYMENT', p_reference, p_key, p_fingerprint);
    IF answer IS DISTINCT FROM NULL THEN RETURN answer; END IF;

    -- What happened before the loss is a fact even if its record arrives when the card is already claimed.
    is_late := card.state IN ('CLAIMED', 'COMPENSATED') AND p_occurred < card.loss_at;
    IF card.state <> 'ACTIVE' AND NOT is_late THEN RETURN ledger_refused('CardNotActive', card.state); END IF;
    IF card.awaits_cover AND NOT is_late THEN RETURN ledger_refused('CoverNotAccepted'); END IF;
    IF p_occurred < card.opened_at THEN RETURN ledger_refused('BeforeOpening'); END IF;
    today := (p_occurred AT TIME ZONE card.time_zone)::date;
    IF today > card.expires_on_date THEN RETURN ledger_refused('CardExpired', card.expires_on_date::text); END IF;

    IF card.unit = 'USES' THEN
        IF p_uses IS NULL OR p_list IS NOT NULL THEN RETURN ledger_refused('WrongUnit', card.unit); END IF;
        draw := p_uses;
    ELSE
        IF p_list IS NULL OR p_uses IS NOT NULL THEN RETURN ledger_refused('WrongUnit', card.unit); END IF;
        charged := half_up(p_list * coalesce(card.rate, 1));
        draw := CASE card.unit WHEN 'MONEY' THEN charged ELSE 0 END;
    END IF;
    IF coalesce(p_list, p_uses) <= 0 THEN RETURN ledger_refused('AmountNotPositive'); END IF;
    IF card.unit = 'DAYS' AND NOT EXISTS (
        SELECT FROM prepaid_load l WHERE l.card_id = p_card AND (l.remaining > 0 OR is_late)
          AND today >= l.starts_on_date AND today < l.starts_on_date + l.face::int
    ) THEN RETURN ledger_refused('TermNotRunning'); END IF;
    IF card.state = 'COMPENSATED' AND draw > 0 THEN
        IF draw > (SELECT coalesce(-sum(e.amount), 0) FROM prepaid_entry e
                   JOIN prepaid_transaction t ON t.id = e.transaction_id
                   WHERE e.card_id = p_card AND t.kind IN ('COMPENSATION', 'COMPENSATION_CORRECTION'))
        THEN RETURN ledger_refused('InsufficientBalance', '0'); END IF;
        PERFORM ledger_correct_compensation(c, draw, p_id, p_now) FROM prepaid_card c WHERE c.id = p_card;
        card.remaining := card.remaining + draw;
    END IF;
    IF draw > card.remaining THEN RETURN ledger_refused('InsufficientBalance', card.remaining::text); END IF;

    -- The loads are read once, and what is drawn is taken from their fraction: what ledger_refundable would say
    -- before and after.
    SELECT array_agg(l.id), array_agg(l.paid), array_agg(l.face),
           array_agg(CASE card.unit WHEN 'DAYS' THEN days_left(l.remaining, l.face, l.starts_on_date, today)
                     ELSE l.remaining END)
    INTO loads, paid, face, held FROM prepaid_load l WHERE l.card_id = p_card AND l.remaining > 0;
    FOR i IN 1 .. coalesce(cardinality(loads), 0) LOOP
        n := n * face[i] + paid[i]::numeric * held[i] * d;
        d := d * face[i];
        usable := usable + held[i];
    END LOOP;
    answer.principal := div(2 * n + d, 2 * d);

    wanted := draw;
    WHILE wanted > 0 LOOP
        -- A statement for each order: only then the index gives the next sub-card without a sort.
        IF card.state = 'COMPENSATED' THEN
            -- What it still holds beside what was just given back was paid in after the loss.
            SELECT s.id, s.load_id, s.seq, s.remaining INTO part
            FROM prepaid_subcard s JOIN prepaid_load l ON l.id = s.load_id
            WHERE s.card_id = p_card AND s.remaining > 0 AND l.occurred_at < card.loss_at ORDER BY s.seq LIMIT 1;
        ELSIF card.draw_order = 'SMALLEST' THEN
            SELECT s.id, s.load_id, s.seq, s.remaining INTO part FROM prepaid_subcard s
            WHERE s.card_id = p_card AND s.remaining > 0 ORDER BY s.remaining, s.seq LIMIT 1;
        ELSE
            SELECT s.id, s.load_id, s.seq, s.remaining INTO part FROM prepaid_subcard s
            WHERE s.card_id = p_card AND s.remaining > 0 ORDER BY s.seq LIMIT 1;
        END IF;
        IF NOT FOUND THEN RAISE 'card % holds less in its sub-cards than it says', p_card; END IF;
        drawn := least(part.remaining, wanted);
        wanted := wanted - drawn;
        UPDATE prepaid_subcard SET remaining = part.remaining - drawn WHERE id = part.id;
        UPDATE prepaid_load SET remaining = remaining - drawn WHERE id = part.load_id;
        INSERT INTO prepaid_entry (transaction_id, card_id, sub_card_id, amount, balance_after)
        VALUES (p_id, p_card, part.id, -drawn, part.remaining - drawn);
        answer.seqs := answer.seqs || part.seq::int;
        answer.amounts := answer.amounts || -drawn;
        answer.balances := answer.balances || part.remaining - drawn;
        i := array_position(loads, part.load_id);
        n := n * face[i] - paid[i]::numeric * drawn * d;
        d := d * face[i];
    END LOOP;
    IF draw > 0 THEN
        UPDATE prepaid_card SET remaining = card.remaining - draw WHERE id = p_card;
    END IF;

    answer.replayed := false; answer.id := p_id; answer.card_id := p_card; answer.kind := 'PAYMENT';
    answer.unit := card.unit; answer.list_amount := p_list; answer.charged_amount := charged; answer.amount := -draw;
    answer.usable_after := usable - draw;
    answer.refundable_after := div(2 * n + d, 2 * d);
    answer.principal := answer.principal - answer.refundable_after;
    answer.gift := CASE card.unit WHEN 'MONEY' THEN draw - answer.principal ELSE 0 END;
    answer.reference := p_reference; answer.store := p_store;
    answer.occurred_at := p_occurred; answer.recorded_at := p_now;
    INSERT INTO prepaid_transaction (id, card_id, merchant_id, kind, unit, list_amount, charged_amount, amount,
                                     principal, gift, usable_after, refundable_after, reference, store,
                                     idempotency_key, fingerprint, occurred_at, recorded_at)
    VALUES (p_id, p_card, p_merchant, 'PAYMENT', card.unit, p_list, charged, -draw, answer.principal, answer.gift,
            answer.usable_after, answer.refundable_after, p_reference, p_store, p_key, p_fingerprint,
            p_occurred, p_now);
    INSERT INTO issuing_event (merchant_id, type, subject_id, card_id, state, amount, recorded_at)
    VALUES (p_merchant, 'payment.recorded', p_id, p_card, '', draw, p_now);
    RETURN answer;
END $$;

-- Giving back --------------------------------------------------------------------------------------------------

-- A REFUND of a payment, in part or (p_amount NULL) whatever is left of it; or its REVERSAL, whole or not at all.
-- Value returns to the sub-cards it came from, in reverse order. p_amount is in the card's unit.
CREATE FUNCTION ledger_return(
    p_id uuid, p_kind text, p_merchant uuid, p_original uuid, p_amount bigint, p_reference text,
    p_key text, p_fingerprint text, p_occurred timestamptz, p_now timestamptz
) RETURNS ledger_answer LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    card prepaid_card; payment prepaid_transaction; seen ledger_answer; part record; answer ledger_answer;
    returned record; wanted bigint; today date; before bigint; is_late boolean; subs bigint[] := '{}';
BEGIN
    SELECT * INTO payment FROM prepaid_transaction WHERE id = p_original AND merchant_id = p_merchant;
    IF NOT FOUND THEN RETURN ledger_refused('TransactionNotFound'); END IF;
    SELECT * INTO card FROM prepaid_card WHERE id = payment.card_id FOR UPDATE;
    seen := ledger_seen(p_merchant, p_kind, p_reference, p_key, p_fingerprint);
    IF seen IS DISTINCT FROM NULL THEN RETURN seen; END IF;
    IF payment.kind <> 'PAYMENT' THEN RETURN ledger_refused('NotAPayment', payment.kind); END IF;
    is_late := card.state IN ('CLAIMED', 'COMPENSATED') AND p_occurred < card.loss_at;
    IF card.state NOT IN ('ACTIVE', 'FROZEN', 'LOST') AND NOT is_late THEN
        RETURN ledger_refused('CardNotActive', card.state);
    END IF;
    IF p_occurred < payment.occurred_at THEN RETURN ledger_refused('BeforePayment'); END IF;
    IF p_amount <= 0 THEN RETURN ledger_refused('AmountNotPositive'); END IF;

    SELECT count(*) AS times, coalesce(sum(amount), 0) AS amount, coalesce(sum(list_amount), 0) AS list,
           coalesce(sum(charged_amount), 0) AS charged
    INTO returned FROM prepaid_transaction WHERE original_id = p_original;
    -- A use of an entitlement moved no value: it is given back whole, once.
    IF returned.amount >= -payment.amount AND returned.times > 0 THEN RETURN ledger_refused('NothingLeftToRefund'); END IF;
    IF p_kind = 'REVERSAL' AND returned.times > 0 THEN RETURN ledger_refused('AlreadyRefunded'); END IF;
    wanted := coalesce(p_amount, -payment.amount - returned.amount);
    IF wanted > -payment.amount - returned.amount THEN
        RETURN ledger_refused('RefundExceedsPayment', (-payment.amount - returned.amount)::text);
    END IF;

    today := (p_occurred AT TIME ZONE (SELECT time_zone FROM issuing_merchant WHERE id = p_merchant))::date;
    before := ledger_refundable(card.id, card.unit, today);
    answer.amount := wanted;
    -- List and charged price follow in proportion to what has come back so far, so that the parts add up.
    answer.list_amount := CASE WHEN payment.amount = 0 THEN payment.list_amount ELSE
        div(2 * payment.list_amount::numeric * (returned.amount + wanted) - payment.amount, -2 * payment.amount)
        - returned.list END;
    answer.charged_amount := CASE WHEN payment.amount = 0 THEN payment.charged_amount
                                  WHEN payment.unit = 'MONEY' THEN wanted END;
    FOR part IN
        SELECT s.id, s.load_id, s.seq, s.remaining, -e.amount - coalesce(sum(r.amount), 0) AS left_over
        FROM prepaid_entry e
        JOIN prepaid_subcard s ON s.id = e.sub_card_id
        LEFT JOIN (prepaid_entry r JOIN prepaid_transaction t ON t.id = r.transaction_id AND t.original_id = p_original)
               ON r.sub_card_id = e.sub_card_id AND r.card_id = card.id
        WHERE e.transaction_id = p_original
        GROUP BY e.id, s.id HAVING -e.amount - coalesce(sum(r.amount), 0) > 0
        ORDER BY e.id DESC
    LOOP
        EXIT WHEN wanted = 0;
        part.left_over := least(part.left_over, wanted);
        wanted := wanted - part.left_over;
        UPDATE prepaid_subcard SET remaining = remaining + part.left_over WHERE id = part.id;
        UPDATE prepaid_load SET remaining = remaining + part.left_over WHERE id = part.load_id;
        subs := subs || part.id;
        answer.seqs := answer.seqs || part.seq::int;
        answer.amounts := answer.amounts || part.left_over::bigint;
        answer.balances := answer.balances || (part.remaining + part.left_over)::bigint;
    END LOOP;
    IF wanted > 0 THEN RAISE 'payment % has no entries for what it took', p_original; END IF;
    -- What comes back late to a compensated card is claimed by a supplement.
    UPDATE prepaid_card SET remaining = remaining + answer.amount,
        state = CASE WHEN state = 'COMPENSATED' AND answer.amount > 0 THEN 'CLAIMED' ELSE state END
    WHERE id = card.id RETURNING * INTO card;

    answer.replayed := false; answer.id := p_id; answer.card_id := card.id; answer.kind := p_kind;
    answer.original_id := p_original; answer.unit := card.unit;
    answer.usable_after := ledger_usable(card, today);
    answer.refundable_after := ledger_refundable(card.id, card.unit, today);
    answer.principal := answer.refundable_after - before;
    answer.gift := CASE card.unit WHEN 'MONEY' THEN answer.amount - answer.principal ELSE 0 END;
    answer.reference := p_reference; answer.store := payment.store;
    answer.occurred_at := p_occurred; answer.recorded_at := p_now;
    INSERT INTO prepaid_transaction (id, card_id, merchant_id, kind, original_id, unit, list_amount, charged_amount,
                                     amount, principal, gift, usable_after, refundable_after, reference, store,
                                     idempotency_key, fingerprint, occurred_at, recorded_at)
    VALUES (p_id, card.id, p_merchant, p_kind, p_original, card.unit, answer.list_amount, answer.charged_amount,
            answer.amount, answer.principal, answer.gift, answer.usable_after, answer.refundable_after, p_reference,
            payment.store, p_key, p_fingerprint, p_occurred, p_now);
    INSERT INTO prepaid_entry (transaction_id, card_id, sub_card_id, amount, balance_after)
    SELECT p_id, card.id, e.sub, e.amount, e.balance
    FROM unnest(subs, answer.amounts, answer.balances) WITH ORDINALITY AS e(sub, amount, balance, n) ORDER BY n;
    INSERT INTO issuing_event (merchant_id, type, subject_id, card_id, state, amount, recorded_at)
    VALUES (p_merchant, 'refund.recorded', p_id, card.id, '', answer.amount, p_now);
    RETURN answer;
END $$;

-- Taking off ---------------------------------------------------------------------------------------------------

-- Takes the value off cards in one go: CLOSURE of ACTIVE and FROZEN ones takes everything (CLOSED); COMPENSATION of
-- CLAIMED ones (COMPENSATED) what was paid in before their loss. What was paid in at or after it is no loss: it stays
-- on the card and is owed by the merchant. Transaction i belongs to card i. Cards in any other state are passed over;
-- returns how many were taken from, which the caller compares with how many it asked for.
-- The principal part is what was refundable on p_date of that card.
CREATE FUNCTION ledger_take_off(
    p_kind text, p_id uuid[], p_card uuid[], p_reference text[], p_date date[], p_occurred timestamptz, p_now timestamptz
) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE taken integer;
BEGIN
    IF p_kind NOT IN ('COMPENSATION', 'CLOSURE') THEN RAISE 'not a way to take value off a card: %', p_kind; END IF;
    PERFORM FROM prepaid_card WHERE id = ANY (p_card) ORDER BY id FOR UPDATE;

    INSERT INTO prepaid_transaction (id, card_id, merchant_id, kind, unit, amount, principal, gift, usable_after,
                                     refundable_after, reference, store, fingerprint, occurred_at, recorded_at)
    SELECT n.id, c.id, c.merchant_id, p_kind, c.unit, kept.held - c.remaining, r.refundable - kept.refundable,
           CASE c.unit WHEN 'MONEY' THEN c.remaining - kept.held - r.refundable + kept.refundable ELSE 0 END,
           kept.usable, kept.refundable, n.reference, '', '', p_occurred, p_now
    FROM unnest(p_id, p_card, p_reference, p_date) AS n(id, card, reference, on_date)
    JOIN prepaid_card c ON c.id = n.card
    CROSS JOIN LATERAL (SELECT ledger_refundable(c.id, c.unit, n.on_date) AS refundable) r
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(l.remaining), 0)::bigint AS held,
               CASE WHEN count(*) = 0 THEN 0 ELSE ledger_refundable(c.id, c.unit, n.on_date, c.loss_at) END AS refundable,
               coalesce(sum(CASE c.unit WHEN 'DAYS' THEN days_left(l.remaining, l.face, l.starts_on_date, n.on_date)
                            ELSE l.remaining END), 0)::bigint AS usable
        FROM prepaid_load l
        WHERE l.card_id = c.id AND l.remaining > 0 AND p_kind = 'COMPENSATION' AND l.occurred_at >= c.loss_at
    ) kept
    WHERE c.state = ANY (CASE p_kind WHEN 'COMPENSATION' THEN ARRAY['CLAIMED'] ELSE ARRAY['ACTIVE', 'FROZEN'] END);
    GET DIAGNOSTICS taken = ROW_COUNT;

    INSERT INTO prepaid_entry (transaction_id, card_id, sub_card_id, amount, balance_after)
    SELECT t.id, t.card_id, s.id, -s.remaining, 0
    FROM prepaid_transaction t
    JOIN prepaid_card c ON c.id = t.card_id
    JOIN prepaid_subcard s ON s.card_id = t.card_id
    JOIN prepaid_load l ON l.id = s.load_id
    WHERE t.id = ANY (p_id) AND s.remaining > 0 AND (p_kind = 'CLOSURE' OR l.occurred_at < c.loss_at)
    ORDER BY t.card_id, s.seq;

    UPDATE prepaid_subcard s SET remaining = 0 FROM prepaid_entry e
    WHERE e.transaction_id = ANY (p_id) AND s.id = e.sub_card_id;
    UPDATE prepaid_load l SET remaining = 0 FROM prepaid_transaction t JOIN prepaid_card c ON c.id = t.card_id
    WHERE t.id = ANY (p_id) AND l.card_id = t.card_id AND l.remaining > 0
      AND (p_kind = 'CLOSURE' OR l.occurred_at < c.loss_at);
    UPDATE prepaid_card c
    SET remaining = c.remaining + t.amount,
        state = CASE p_kind WHEN 'COMPENSATION' THEN 'COMPENSATED' ELSE 'CLOSED' END
    FROM prepaid_transaction t WHERE t.id = ANY (p_id) AND c.id = t.card_id;

    -- What a compensation takes off is told as its claim.
    INSERT INTO issuing_event (merchant_id, type, subject_id, card_id, state, amount, recorded_at)
    SELECT t.merchant_id, 'card.closed', t.card_id, t.card_id, 'CLOSED', t.principal, p_now
    FROM prepaid_transaction t WHERE t.id = ANY (p_id) AND p_kind = 'CLOSURE';
    RETURN taken;
END $$;

-- Who may do what ----------------------------------------------------------------------------------------------

CREATE FUNCTION ledger_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE '% is append-only: what happened is corrected by a new record, never changed', TG_TABLE_NAME;
END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON prepaid_transaction
    FOR EACH ROW EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON prepaid_entry
    FOR EACH ROW EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON prepaid_cardmove
    FOR EACH ROW EXECUTE FUNCTION ledger_refuse_change();

REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON prepaid_card, prepaid_load, prepaid_subcard, prepaid_transaction,
    prepaid_entry FROM prepaid_app;
REVOKE UPDATE, DELETE, TRUNCATE ON prepaid_cardmove FROM prepaid_app;
-- Everything about a card but its balance: where it stands, its number, when it ends.
GRANT UPDATE (state, awaits_cover, expires_on_date, loss_at, number_hash, last4, number_sealed)
    ON prepaid_card TO prepaid_app;
-- PostgreSQL lets everyone execute a new function; the inner ones write without asking.
REVOKE EXECUTE ON FUNCTION ledger_write_loads, ledger_correct_compensation, ledger_open, ledger_top_up, ledger_pay,
    ledger_return, ledger_take_off FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger_open, ledger_top_up, ledger_pay, ledger_return, ledger_take_off TO prepaid_app;
