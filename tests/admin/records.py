"""One record of every kind, made by the business's own verbs."""

import io
from datetime import date, timedelta
from decimal import Decimal

from django.contrib.auth.models import User
from django.utils import timezone

from claims import adjudication, recovery
from claims.models import Claim, InsuredEvent, Recovery
from config import audit
from config.models import Bulk, BulkItem, Export
from insurance.models import Insurer, InsurerMessage, Policy, Product
from issuing import batches, keys, webhooks
from issuing.models import Batch, CardProgram, Kind, Merchant, WebhookAttempt, WebhookDelivery
from issuing.orders import Holder, Order
from points import coupons, guessing, repairs
from points.models import Coupon, Exchange, PointsMessage, Repair, WrongGuess
from prepaid import files, holds, processing, reconciliation
from prepaid.models import Break, Card, RefusedPayment, Run
from tests import cards
from tests import points_world as world


def staff(name: str) -> User:
    found = User.objects.filter(username=name).first()
    return found or User.objects.create_user(name, password="secret", is_staff=True)


def insured_program(kind: Kind = Kind.BONUS, **facts: object) -> CardProgram:
    program = cards.program(kind, **facts)
    insurer, _made = Insurer.objects.get_or_create(code="SAFE", defaults={"name": "Safe Harbour"})
    Product.objects.get_or_create(
        merchant=program.merchant,
        valid_from_date=date(2020, 1, 1),
        defaults={"insurer": insurer, "code": "STD", "annual_rate": Decimal("0.012")},
    )
    return program


def purchase(program: CardProgram, amount: int = 100_000) -> Order:
    return Order(program, amount, Holder("王小明", "13800000001"), cards.reference("PUR"), "WECHAT", timezone.now())


def card(program: CardProgram | None = None, amount: int = 100_000) -> Card:
    order = purchase(program or insured_program(), amount)
    order = order._replace(paid_at=timezone.now() - timedelta(days=40))
    return processing.open_card(order=order, now=timezone.now())


def accepted(card: Card) -> Policy:
    policy = Policy.objects.get(card=card)
    policy.move(Policy.State.UNKNOWN, due_at=None)
    policy.move(Policy.State.ACCEPTED, policy_no=cards.reference("PN"), accepted_at=timezone.now())
    return policy


def unresolved(card: Card) -> Policy:
    policy = Policy.objects.get(card=card)
    policy.move(Policy.State.UNKNOWN, due_at=None)
    policy.move(Policy.State.UNRESOLVED, problem="timed out", attempts=7)
    return policy


def batch(program: CardProgram, *, made_by: User, rows: int = 2) -> Batch:
    """A checked file with ``rows`` good rows and one whose name is a formula."""
    lines = ["reference,program,holder_name,phone,prepaid_amount,paid_at,payment_method"]
    lines += [
        f"{cards.reference('B')},{program.code},王芳,13900000001,1000.00,2026-01-05T10:00:00+08:00,WECHAT"
        for _n in range(rows)
    ]
    lines.append(f"{cards.reference('B')},{program.code},=1+1,13900000001,10.00,2026-01-05T10:00:00+08:00,WECHAT")
    file = io.BytesIO("\n".join([*lines, ""]).encode())
    return batches.stage(name="purchases.csv", source=file, made_by=made_by, now=timezone.now())


def event(merchant: Merchant, *, declared_by: User, confirmed_by: User | None = None) -> InsuredEvent:
    now = timezone.now()
    declared = adjudication.declare(
        merchant=merchant,
        trigger=InsuredEvent.Trigger.CLOSED_DOWN,
        loss_date=(now - timedelta(days=20)).date(),
        evidence="The shop was found empty.",
        by=declared_by,
        now=now,
    )
    if confirmed_by:
        adjudication.confirm(event=declared, by=confirmed_by, now=now)
    return declared


def claim(card: Card, state: Claim.State = Claim.State.FILED) -> Claim:
    """A claim on the card, taken as far as ``state`` by an adjuster and an approver."""
    now = timezone.now()
    adjuster, approver = staff("first-adjuster"), staff("first-approver")
    if not InsuredEvent.objects.filter(merchant=card.merchant).exists():
        event(card.merchant, declared_by=adjuster, confirmed_by=approver)
    made = adjudication.file_claim(card=Card.objects.get(pk=card.pk), by="staff:first-adjuster", now=now)
    if state == Claim.State.FILED:
        return made
    adjudication.assess(claim=made, by=adjuster, now=now)
    if state in (Claim.State.APPROVED, Claim.State.PAID):
        adjudication.approve(claim=made, by=approver, now=now)
    if state == Claim.State.PAID:
        adjudication.pay(claim=made, by=approver, now=now)
    made.refresh_from_db()
    return made


def found_break(amount: int = 50_000) -> Break:
    run, _made = Run.objects.get_or_create(
        partner=Run.Partner.LEDGER, business_date=date(2026, 1, 1), defaults={"started_at": timezone.now()}
    )
    subject = cards.reference("CARD")
    finding = reconciliation.Finding(Break.Type.AMOUNT_DIFFERS, subject, None, None, {"amount": amount}, {"amount": 0})
    reconciliation.record(run=run, findings=[finding], now=timezone.now())
    return Break.objects.get(subject=subject)


def refused_payment(card: Card) -> RefusedPayment:
    now = timezone.now()
    return RefusedPayment.objects.create(
        merchant=card.merchant, card=card, file="payments.csv", line=2, reference=cards.reference("PAY"),
        purchase_reference="PUR", raw="PAY,PUR,9999.00,,2026-07-01T10:00:00+08:00,S01", fingerprint="f",
        occurred_at=now, refusal="InsufficientBalance", reason="short", recorded_at=now, refused_at=now,
    )  # fmt: skip


def one_of_each() -> Merchant:
    """Something in every table that the back office shows."""
    program = insured_program(tiers=[(50_000, 5_000)])
    opened = card(program)
    accepted(opened)
    processing.top_up(
        merchant=program.merchant, card_id=opened.pk, amount=60_000, reference=cards.reference("TOP"),
        payment_method="WECHAT", now=timezone.now(),
    )  # fmt: skip
    cards.paid(opened, 1_234, at=timezone.now())
    processing.report_lost(card=Card.objects.get(pk=opened.pk), reason="lost", by="staff:x", now=timezone.now())
    processing.replace(card=Card.objects.get(pk=opened.pk), reason="lost", by="staff:x", now=timezone.now())
    batch(program, made_by=staff("first-clerk"))
    keys.make(merchant=program.merchant, name="shop", now=timezone.now())
    claim(opened, Claim.State.PAID)
    owed = Recovery.objects.get()
    recovery.record(recovery=owed, amount=100, reference="WIRE-1", by=staff("first-adjuster"), now=timezone.now())
    found_break()
    refused_payment(opened)
    run = Run.objects.create(partner="INSURER", business_date=date(2026, 1, 1), state="DONE", started_at=timezone.now())
    files.keep(run, io.BytesIO(b"H,1\n"), "m-0")
    InsurerMessage.objects.create(
        direction="SENT", message_id="m-1", type="ENROLMENT", request_nos=["r-1"], body=b'{"body": {}}',
        headers={"webhook-id": "m-1"}, recorded_at=timezone.now(),
    )  # fmt: skip
    repaired(exchanged(cards.merchant()))
    held = holds.hold(partner=Run.Partner.POINTS, reason="restored", by="staff:x", now=timezone.now())
    holds.release(held=held, reason="nothing was lost", by="staff:x", now=timezone.now())
    told(program.merchant)
    audit.record(None, "add", row=program.merchant, who="first-clerk")
    ordered(program.merchant)
    return program.merchant


def ordered(merchant: Merchant) -> None:
    """An export and bulk work that somebody ordered."""
    by = {"made_by": staff("first-clerk"), "language": "en", "time_zone": "Asia/Shanghai"}
    Export.objects.create(kind="issuing.merchant", format=Export.Format.CSV, **by)
    work = Bulk.objects.create(kind="prepaid.card", verb="freeze", data={"reason": "x"}, total=1, **by)
    BulkItem.objects.create(bulk=work, key=str(merchant.pk))


def break_of_points(row: Exchange) -> Break:
    """The points system does not know the deduction of an issued exchange."""
    run, _made = Run.objects.get_or_create(
        partner=Run.Partner.POINTS, business_date=date(2026, 1, 1), defaults={"started_at": timezone.now()}
    )
    ours = {"type": "DEDUCTION_REQUEST", "state": "ISSUED", "points": row.points}
    finding = reconciliation.Finding(Break.Type.LOCAL_ONLY, row.request_no, row.merchant_id, None, ours, None)
    reconciliation.record(run=run, findings=[finding], now=timezone.now())
    return Break.objects.select_related("run").get(subject=row.request_no)


def repaired(row: Exchange) -> Repair:
    """The coupons of an exchange held because of a break."""
    return repairs.repair(
        found=break_of_points(row), what=Repair.What.FREEZE, reason="unknown to them", by=staff("first-partner"),
        now=timezone.now(),
    )  # fmt: skip


def told(merchant: Merchant) -> WebhookDelivery:
    """A webhook endpoint that a test message was owed and did not take."""
    now = timezone.now()
    endpoint, _secret = webhooks.add(
        merchant=merchant, url="https://93.184.216.34/", types=[], is_live=False, by="key:shop", now=now
    )
    row = webhooks.ping(endpoint=endpoint, now=now)
    WebhookAttempt.objects.create(
        delivery=row, url=endpoint.url, status=500, answer="<b>no</b>", duration_ms=12, recorded_at=now
    )
    return row


def exchanged(merchant: Merchant) -> Exchange:
    """Points exchanged for three coupons; one of them read, one being returned; and a wrong guess."""
    tea = world.product(merchant=merchant)
    world.ratio(tea)
    row = world.issued(tea, 3)
    now = timezone.now()
    Coupon.objects.filter(exchange=row).update(expires_at=now + timedelta(days=30))
    first, second, _third = row.coupons.order_by("ordinal")
    coupons.read_code(coupon=first, reason="asked", by="staff:x", now=now)
    coupons.give_back(exchange=row, coupon_ids=[second.pk], reason="", by="staff:x", now=now)
    guessing.note(WrongGuess.What.COUPON, "key …0000", now=now)
    PointsMessage.objects.create(
        direction="SENT", message_id=f"pm-{row.pk}", type="DEDUCTION_REQUEST", request_no=row.request_no, exchange=row,
        body=b'{"body": {"account": "6225000026000000"}}', headers={"webhook-id": "pm"}, recorded_at=now,
    )  # fmt: skip
    return row
