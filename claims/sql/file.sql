-- Files claims for cards of one failed merchant, freezes them and moves them to CLAIMED at the moment of loss.
--
-- The cards are locked before anything is read off them, so a payment is either in the balance already or refused.
-- Nothing to claim for: closed and compensated cards, those on which nothing is left that was paid in before the loss,
-- terms that were served before it.
-- Claim i takes the i-th identity; `which` limits the cards.
WITH chosen AS (
    SELECT card.id, card.state FROM prepaid_card card
    WHERE card.merchant_id = %(merchant)s AND card.state IN ('ACTIVE', 'FROZEN', 'LOST') AND card.remaining > 0
      AND EXISTS (
          SELECT FROM prepaid_load l WHERE l.card_id = card.id AND l.remaining > 0 AND l.occurred_at < %(loss_at)s
            AND (card.unit <> 'DAYS' OR days_left(l.remaining, l.face, l.starts_on_date, %(loss_date)s::date) > 0))
      AND {which}
    ORDER BY card.id LIMIT %(size)s FOR UPDATE OF card
),
card AS (
    SELECT id, state, row_number() OVER (ORDER BY id) AS n FROM chosen
),
frozen AS (
    UPDATE prepaid_card SET state = 'CLAIMED', loss_at = %(loss_at)s FROM card WHERE prepaid_card.id = card.id
),
moved AS (
    INSERT INTO prepaid_cardmove (card_id, from_state, to_state, reason, by, recorded_at)
    SELECT id, state, 'CLAIMED', %(reason)s, %(by)s, %(now)s FROM card
),
filed AS (
    INSERT INTO claims_claim (id, event_id, merchant_id, card_id, policy_id, kind, reference, state, formula,
                              refunded_by_merchant, excluded, filed_by, reason, papers, filed_at)
    SELECT given.claim, %(event)s, %(merchant)s, card.id, policy.id, 'ORIGINAL', %(reference)s, 'FILED', '', 0, 0,
           %(by)s, '', '', %(now)s
    FROM unnest(%(claims)s::uuid[]) WITH ORDINALITY AS given(claim, n)
    JOIN card USING (n) LEFT JOIN insurance_policy policy ON policy.card_id = card.id AND policy.state = 'ACCEPTED'
    RETURNING id, merchant_id, card_id, state
),
told AS (
    INSERT INTO issuing_event (merchant_id, type, subject_id, card_id, state, recorded_at)
    SELECT merchant_id, 'claim.filed', id, card_id, state, %(now)s FROM filed
)
SELECT id FROM filed
