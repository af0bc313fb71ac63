"""Every verb tells what it did, once, in its own transaction; a refusal and a replay tell nothing."""

import pytest
from django.db.models.expressions import RawSQL
from django.utils import timezone

from claims import adjudication
from claims.models import Claim
from config.ids import new_id
from insurance import enrolment
from insurance.enrolment import Verdict
from insurance.models import Policy
from issuing import events
from issuing.models import Event, Kind
from points import codes, coupons, exchange
from points.models import Coupon
from prepaid import ledger, processing
from prepaid.models import Card
from tests import cards
from tests import points_world as world
from tests.admin import records

pytestmark = pytest.mark.django_db


def told(*types: str) -> list[tuple]:
    """What was written down, in the order in which it was written."""
    rows = Event.objects.filter(type__in=types) if types else Event.objects.all()
    return list(rows.order_by(RawSQL("ctid", ())).values_list("type", "subject_id", "card_id", "state", "amount"))


def since(before: int) -> list[tuple]:
    return told()[before:]


@pytest.fixture
def card() -> Card:
    return records.card(records.insured_program(tiers=[(50_000, 5_000)]))


def test_a_card_from_its_opening_to_its_end(card):
    now = timezone.now()
    merchant = card.merchant
    assert told() == [("card.opened", card.pk, card.pk, "ACTIVE", 100_000)]
    processing.top_up(
        merchant=merchant, card_id=card.pk, amount=60_000, reference="TOP-1", payment_method="WECHAT", now=now
    )
    paid = cards.paid(card, 1_234, at=now)
    given_back = ledger.refund(
        merchant_id=merchant.pk, transaction_id=paid.id, reference="BACK-1", occurred_at=now, now=now, amount=234
    )
    other = cards.paid(card, 500, at=now)
    undone = ledger.reverse(
        merchant_id=merchant.pk, transaction_id=other.id, reference="UNDO-1", occurred_at=now, now=now
    )
    assert since(1) == [
        ("card.topped_up", card.pk, card.pk, "ACTIVE", 60_000),
        ("payment.recorded", paid.id, card.pk, "", 1_234),
        ("refund.recorded", given_back.id, card.pk, "", 234),
        ("payment.recorded", other.id, card.pk, "", 500),
        ("refund.recorded", undone.id, card.pk, "", 500),
    ]
    for verb in (processing.freeze, processing.unfreeze, processing.report_lost, processing.replace):
        verb(card=Card.objects.get(pk=card.pk), reason="so", by="test", now=now)
    closure = processing.close(card=Card.objects.get(pk=card.pk), reason="so", by="test", now=now)
    assert since(6) == [
        ("card.frozen", card.pk, card.pk, "FROZEN", None),
        ("card.unfrozen", card.pk, card.pk, "ACTIVE", None),
        ("card.frozen", card.pk, card.pk, "LOST", None),
        ("card.unfrozen", card.pk, card.pk, "ACTIVE", None),
        ("card.closed", card.pk, card.pk, "CLOSED", closure.principal),
    ]


def test_uses_are_told_as_uses_and_a_batch_as_its_cards():
    card = cards.opened(cards.program(Kind.TIMES))
    payment = cards.paid(card, uses=2)
    assert told("payment.recorded") == [("payment.recorded", payment.id, card.pk, "", 2)]
    program = records.insured_program()
    opened = processing.open_cards(orders=[records.purchase(program) for _n in range(5)], now=timezone.now())
    assert {row[1] for row in told("card.opened")} == {card.pk, *opened}
    assert set(Event.objects.values_list("merchant", flat=True)) == {card.merchant_id, program.merchant_id}


def test_a_replay_and_a_refusal_tell_nothing(card):
    now = timezone.now()
    asked = {
        "merchant_id": card.merchant_id, "card_id": card.pk, "list_amount": 100, "reference": "ORDER-1",
        "occurred_at": now, "now": now, "key": "k-1", "fingerprint": "f",
    }  # fmt: skip
    ledger.pay(**asked)
    assert ledger.pay(**asked).replayed
    with pytest.raises(ledger.ReferenceUsed):
        ledger.pay(**{**asked, "key": "k-2"})
    with pytest.raises(ledger.InsufficientBalance):
        ledger.pay(**{**asked, "key": "k-3", "reference": "ORDER-2", "list_amount": 10**9})
    assert [row[0] for row in told("payment.recorded")] == ["payment.recorded"]


def test_what_the_insurer_decides():
    now = timezone.now()
    accepted, declined = records.card(), records.card()
    verdicts = []
    for opened, is_accepted in ((accepted, True), (declined, False)):
        policy = Policy.objects.get(card=opened)
        policy.move(Policy.State.UNKNOWN, due_at=None)
        verdicts.append(
            Verdict(policy.request_no, is_accepted, "0000", cards.reference("PN") if is_accepted else None, now)
        )
    for _twice in range(2):
        enrolment.settle_policies(verdicts)
    rows = told("policy.accepted", "policy.declined")
    assert sorted(rows) == sorted([
        ("policy.accepted", Policy.objects.get(card=accepted).pk, accepted.pk, "ACCEPTED", 100_000),
        ("policy.declined", Policy.objects.get(card=declined).pk, declined.pk, "DECLINED", 100_000),
    ])  # fmt: skip


def test_a_claim_from_its_notice_to_its_payment(card):
    records.accepted(card)
    paid = records.claim(card, Claim.State.PAID)
    rows = told("claim.filed", "claim.approved", "claim.paid", "claim.rejected", "card.closed")
    assert rows == [
        ("claim.filed", paid.pk, card.pk, "FILED", None),
        ("claim.approved", paid.pk, card.pk, "APPROVED", paid.payable),
        ("claim.paid", paid.pk, card.pk, "PAID", paid.payable),
    ]
    assert paid.payable


def test_a_claim_that_is_rejected(card):
    claim = records.claim(card)
    adjudication.reject(claim=claim, reason="not so", by=records.staff("second"), now=timezone.now())
    assert told("claim.rejected") == [("claim.rejected", claim.pk, card.pk, "REJECTED", None)]


def test_points_and_coupons():
    tea = world.product()
    world.ratio(tea)
    row = world.issued(tea, 3)
    refused = world.sent(world.submitted(world.quote(tea, 1)))
    assert exchange.reject(exchange=refused, code="1001", now=world.NOW)
    assert not exchange.reject(exchange=refused, code="1001", now=world.NOW)
    given_up = world.sent(world.submitted(world.quote(tea, 1)))
    assert exchange.give_up(exchange=given_up)
    assert exchange.reversed_(exchange=given_up, now=world.NOW)
    coupon = Coupon.objects.filter(exchange=row).first()
    assert coupon is not None
    code = codes.written(codes.VAULT.unseal(coupon.code_sealed))
    for _twice in range(2):
        coupons.redeem(merchant=tea.merchant, code=code, reference="TILL-1", now=world.NOW)
    assert told() == [
        ("exchange.issued", row.pk, None, "ISSUED", row.points),
        ("exchange.rejected", refused.pk, None, "REJECTED", refused.points),
        ("exchange.reversed", given_up.pk, None, "REVERSED", given_up.points),
        ("coupon.redeemed", coupon.pk, None, "REDEEMED", coupon.face_value),
    ]


def test_every_type_has_a_kind_of_subject():
    for type in Event.Type:
        event = Event(id=new_id(), type=type, subject_id=new_id(), recorded_at=cards.NOW)
        assert events.shape(event, cards.SHANGHAI)["data"]["id"][3] == "_"
    assert set(events.TYPES) == set(Event.Type.values) - {"webhook.ping"}
