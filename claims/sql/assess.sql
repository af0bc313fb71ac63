-- Assesses filed claims of one event: the figures of prepaid/valuation.py, prepaid/interest.py and
-- claims/compensation.py for any number of cards at once. Tests hold the two together, figure by figure.
--
-- The balance at the loss is what is stored less what the ledger did at or after it, so the cost is that of the cards
-- and not of their history. What a compensation took off, or a correction of it gave back, is not counted as gone:
-- a supplement is worked out like the claim it follows, and only what differs from what was paid is new.
WITH claim AS MATERIALIZED (
    SELECT c.id, c.card_id, c.kind, c.refunded_by_merchant, c.excluded, card.unit,
           (card.opened_at AT TIME ZONE %(zone)s)::date AS contract_date
    FROM claims_claim c JOIN prepaid_card card ON card.id = c.card_id
    WHERE c.state = 'FILED' AND {which}
    ORDER BY c.id LIMIT %(size)s FOR UPDATE OF c
),
later AS (
    SELECT s.load_id, count(*) AS entries, sum(e.amount) AS amount,
           coalesce(sum(e.amount) FILTER (WHERE t.kind IN ('COMPENSATION', 'COMPENSATION_CORRECTION')), 0) AS compensated
    FROM claim
    JOIN prepaid_transaction t ON t.card_id = claim.card_id AND t.occurred_at >= %(loss_at)s
    JOIN prepaid_entry e ON e.transaction_id = t.id
    JOIN prepaid_subcard s ON s.id = e.sub_card_id
    GROUP BY s.load_id
),
used AS (
    SELECT e.card_id, max(e.id) AS through, count(*) AS entries
    FROM claim JOIN prepaid_entry e ON e.card_id = claim.card_id
    GROUP BY e.card_id
),
balance AS (
    SELECT l.card_id, l.seq, l.paid, l.face, l.starts_on_date, claim.unit,
           l.remaining - coalesce(later.amount, 0) AS at_loss,
           -- A load from after the loss is none of it, nor does it make up for what was spent since.
           CASE WHEN l.occurred_at < %(loss_at)s THEN l.remaining - coalesce(later.compensated, 0) ELSE 0 END
               AS at_present,
           coalesce(later.entries, 0) AS entries_after
    FROM claim
    JOIN prepaid_load l ON l.card_id = claim.card_id
    LEFT JOIN later ON later.load_id = l.id
),
dated AS (
    SELECT card_id, seq, paid, face, at_loss, entries_after,
           CASE unit WHEN 'DAYS' THEN days_left(at_loss::bigint, face, starts_on_date, %(loss_date)s::date)
                     ELSE at_loss END AS left_at_loss,
           CASE unit WHEN 'DAYS' THEN days_left(at_present::bigint, face, starts_on_date, %(loss_date)s::date)
                     ELSE at_present END AS left_at_present
    FROM balance
),
numbered AS (
    SELECT dated.*, count(*) OVER (PARTITION BY card_id) AS loads FROM dated
),
valued AS (
    -- Nearly every card has one load, and rounding one fraction is far cheaper than adding up fractions exactly.
    SELECT card_id, div(2 * paid::numeric * left_at_loss + face, 2 * face::numeric)::bigint AS at_loss,
           div(2 * paid::numeric * left_at_present + face, 2 * face::numeric)::bigint AS at_present,
           at_loss::bigint AS entries_sum, entries_after,
           ARRAY[ARRAY[seq, paid, face, left_at_loss, left_at_present]::bigint[]] AS loads
    FROM numbered WHERE loads = 1
    UNION ALL
    SELECT card_id, half_up_sum(paid::numeric * left_at_loss, face), half_up_sum(paid::numeric * left_at_present, face),
           sum(at_loss)::bigint, sum(entries_after)::bigint,
           array_agg(ARRAY[seq, paid, face, left_at_loss, left_at_present]::bigint[] ORDER BY seq)
    FROM numbered WHERE loads > 1 GROUP BY card_id
),
before AS (
    SELECT p.card_id, sum(p.refundable_at_loss) AS at_loss, sum(p.refundable_now) AS at_present,
           sum(p.spent_after_loss) AS spent, sum(p.refunded_by_merchant) AS refunded, sum(p.excluded) AS excluded,
           sum(p.loss) AS loss, sum(p.interest) AS interest, sum(p.payable) AS payable
    FROM claim JOIN claims_claim p ON p.card_id = claim.card_id AND p.state = 'PAID'
    WHERE claim.kind = 'SUPPLEMENT' GROUP BY p.card_id
),
rate AS (
    SELECT annual_rate, valid_from_date, lead(valid_from_date) OVER (ORDER BY valid_from_date) AS until_date
    FROM claims_interestrate WHERE kind = 'LPR_1Y'
),
facts AS (
    SELECT claim.id, valued.at_loss, valued.at_present, valued.loads, valued.entries_sum,
           used.through, used.entries - valued.entries_after AS entries,
           claim.refunded_by_merchant + coalesce(before.refunded, 0) AS refunded,
           claim.excluded + coalesce(before.excluded, 0) AS excluded,
           cover.id AS policy_id, coalesce(cover.sum_insured, 0) AS sum_insured,
           coalesce(cover.sum_insured - cover.compensated + coalesce(before.payable, 0), 0) AS sum_insured_left,
           coalesce(cover.coverage_ratio, 1) AS coverage_ratio, coalesce(cover.deductible_rate, 0) AS deductible_rate,
           coalesce(cover.deductible_amount, 0) AS deductible_amount,
           claim.contract_date, rate.annual_rate, greatest(0, %(today)s::date - %(loss_date)s::date) AS days,
           coalesce(before.at_loss, 0) AS before_at_loss, coalesce(before.at_present, 0) AS before_at_present,
           coalesce(before.spent, 0) AS before_spent,
           coalesce(before.loss, 0) AS before_loss, coalesce(before.interest, 0) AS before_interest,
           coalesce(before.payable, 0) AS before_payable
    FROM claim
    JOIN valued ON valued.card_id = claim.card_id
    JOIN used ON used.card_id = claim.card_id
    LEFT JOIN before ON before.card_id = claim.card_id
    LEFT JOIN LATERAL (
        SELECT p.id, p.sum_insured, p.compensated, d.coverage_ratio, d.deductible_rate, d.deductible_amount
        FROM insurance_policy p JOIN insurance_product d ON d.id = p.product_id
        WHERE p.card_id = claim.card_id AND {in_force}
    ) cover ON true
    LEFT JOIN rate ON claim.contract_date >= rate.valid_from_date
                  AND (claim.contract_date < rate.until_date OR rate.until_date IS NULL)
),
lost AS (
    SELECT facts.*, least(at_loss, at_present) AS still_there,
           greatest(0, least(at_loss, at_present) - refunded - excluded)::bigint AS loss
    FROM facts OFFSET 0
),
sheet AS (
    SELECT lost.*,
           greatest(0, half_up(half_up(least(loss, sum_insured_left) * coverage_ratio) * (1 - deductible_rate))
                       - deductible_amount)::bigint AS payable,
           -- div is exact; a division would be rounded before it is rounded.
           div(2 * loss * days * annual_rate + 365, 730)::bigint AS interest
    FROM lost OFFSET 0
)
UPDATE claims_claim c SET
    state = 'ASSESSED', assessed_by_id = %(by)s, assessed_at = %(now)s, approved_by_id = NULL, decided_at = NULL,
    formula = %(formula)s, policy_id = sheet.policy_id, sum_insured = sheet.sum_insured,
    sum_insured_left = sheet.sum_insured_left, coverage_ratio = sheet.coverage_ratio,
    deductible_rate = sheet.deductible_rate, deductible_amount = sheet.deductible_amount,
    entries_through = sheet.through, entries_number = sheet.entries, entries_sum = sheet.entries_sum,
    loads = sheet.loads, contract_date = sheet.contract_date, annual_rate = sheet.annual_rate,
    interest_days = sheet.days,
    -- From here on a supplement holds differences to what was paid before.
    refundable_at_loss = sheet.at_loss - before_at_loss,
    refundable_now = sheet.at_present - before_at_present,
    spent_after_loss = sheet.at_loss - sheet.still_there - before_spent,
    loss = sheet.loss - before_loss,
    interest = sheet.interest - before_interest,
    legal_entitlement = sheet.loss - before_loss + sheet.interest - before_interest,
    payable = sheet.payable - before_payable,
    reason = CASE WHEN sheet.policy_id IS NULL THEN 'not covered' ELSE '' END
FROM sheet WHERE c.id = sheet.id
