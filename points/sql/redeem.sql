-- A redemption in one round trip: whoever redeems a coupon waits for nothing but this.
--
-- The coupon that the merchant redeemed under the reference, before or now; no row where there is none and the code is
-- not that of an active coupon of this merchant. One conditional UPDATE decides, so of any number at once one wins.
CREATE FUNCTION points_redeem(
    p_merchant uuid, p_hashes text[], p_reference text, p_store text, p_now timestamptz
) RETURNS SETOF points_coupon LANGUAGE plpgsql AS $$
DECLARE
    coupon points_coupon;
BEGIN
    -- That it is not empty is said for the planner: the index holds no empty ones.
    SELECT * INTO coupon FROM points_coupon
    WHERE merchant_id = p_merchant AND redeemed_reference = p_reference AND redeemed_reference <> '';
    IF NOT FOUND THEN
        BEGIN
            UPDATE points_coupon
            SET state = 'REDEEMED', redeemed_at = p_now, redeemed_reference = p_reference, store = p_store
            WHERE code_hash = ANY (p_hashes) AND merchant_id = p_merchant AND state = 'ACTIVE' AND expires_at > p_now
            RETURNING * INTO coupon;
            IF FOUND THEN
                INSERT INTO issuing_event (merchant_id, type, subject_id, state, amount, recorded_at)
                VALUES (p_merchant, 'coupon.redeemed', coupon.id, coupon.state, coupon.face_value, p_now);
            END IF;
        EXCEPTION WHEN unique_violation THEN
            coupon := NULL; -- another coupon was redeemed under this reference at the same moment
        END;
        IF coupon.id IS NULL THEN
            -- Who came at the same moment has committed by now: his redemption is seen by this statement, not before.
            SELECT * INTO coupon FROM points_coupon
            WHERE merchant_id = p_merchant AND redeemed_reference = p_reference AND redeemed_reference <> '';
        END IF;
    END IF;
    IF coupon.id IS NOT NULL THEN
        RETURN NEXT coupon;
    END IF;
END $$;
