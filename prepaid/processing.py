"""The conductor (the patent's processing module, 处理模块): what opens, fills, holds and ends a card.

It tells issuing how an amount is split, the ledger what to write and insurance what is owed, all in one transaction.
Payments and refunds need no conductor: ``ledger.pay`` and ``ledger.refund`` are called as they are.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import datetime
from itertools import islice
from time import monotonic
from typing import NamedTuple
from uuid import UUID

from django.db import IntegrityError, connection, transaction
from django.db.models import F, prefetch_related_objects
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _
from psycopg.errors import UniqueViolation

from config import prepared
from config.errors import Refused
from config.handshakes import lease
from config.ids import new_id
from config.states import IllegalMove
from insurance import enrolment
from issuing import events, merchants, numbering, split
from issuing import orders as rules
from issuing.models import Batch, BatchRow, CardProgram, Event, Kind, Merchant, Regulation, Unit
from issuing.orders import Holder, Order
from issuing.split import SubCardPlan
from points import parameters
from prepaid import ledger
from prepaid.ledger import Posted
from prepaid.models import Card, CardMove, Load, RetiredNumber, Transaction

BATCH_LEASE = 60
"""Seconds for which a batch belongs to the worker that took it for one slice."""


class OpensNoMore(Refused):
    text = _("The merchant has failed or the program is withdrawn since this was approved.")


class Quote(NamedTuple):
    """How an amount would become a card. Money in fen; ``face`` in ``unit``."""

    amount: int
    bonus: int
    face: int
    unit: Unit
    sub_cards: list[SubCardPlan]
    sum_insured: int
    premium: int
    term_days: int


class _Terms(NamedTuple):
    bonus: int
    face: int
    sub_cards: list[SubCardPlan]


def _tiers(program: CardProgram) -> list[tuple[int, int]]:
    return [(tier.from_amount, tier.gift) for tier in program.tiers.all()]


def _split(program: CardProgram, amount: int, regulation: Regulation, tiers: Sequence[tuple[int, int]]) -> _Terms:
    """What an amount buys on a program and how it is split: the one place, for quotes, openings and top-ups."""
    kind = Kind(program.kind)
    bonus = split.gift(tiers, amount) if kind == Kind.BONUS else 0
    units = {Kind.TIMES: program.uses, Kind.ENTITLEMENT: program.term_days}.get(kind)
    sub_cards = split.plan(
        amount=amount,
        limit=rules.limit(program, regulation),
        gift=bonus,
        units=units,
        limit_on_face=program.limit_basis == CardProgram.LimitBasis.FACE,
        most=program.max_sub_cards,
    )
    return _Terms(bonus, amount + bonus if units is None else units, sub_cards)


def quote(*, program: CardProgram, amount: int, now: datetime) -> Quote:
    """How an amount would be split, its bonus and premium, without doing it; the same code as opening.

    :raises WrongPrice, AmountNotPositive, AmountTooLarge, TooManySubCards, MerchantFailed, ProgramWithdrawn,
        NoInsuranceProduct:
    """
    today = rules.local_date(program.merchant, now)
    rules.check_amount(program, amount)
    terms = _split(program, amount, rules.regulation_for(program.merchant, today), _tiers(program))
    products = enrolment.products_of({program.merchant_id})[program.merchant_id]
    premium = enrolment.quote(enrolment.product_for(products, today), amount, program.term_days)
    return Quote(amount, terms.bonus, terms.face, program.unit, terms.sub_cards, amount, premium, program.term_days)


def open_card(*, order: Order, now: datetime, key: str | None = None, fingerprint: str = "") -> Card:
    """Open one card: test the order, split it, link the sub-cards by a network account, owe the enrolment.

    :raises ReferenceUsed: the merchant bought under this reference before. And what ``rules.check`` refuses.
    """
    today = rules.local_date(order.program.merchant, order.paid_at)
    rules.check(order, regulation=rules.regulation_for(order.program.merchant, today), now=now)
    with transaction.atomic():
        _refuse_used_reference(order.program.merchant_id, Load.Kind.PURCHASE, order.reference)
        [card_id] = open_cards(orders=[order], now=now, key=key, fingerprint=fingerprint)
    return Card.objects.select_related("merchant", "program", "network_account").get(pk=card_id)


def open_cards(
    *,
    orders: Sequence[Order],
    now: datetime,
    batch: Batch | None = None,
    key: str | None = None,
    fingerprint: str = "",
) -> list[UUID]:
    """Open a card for each order, all or none, set by set. The orders have been tested.

    :raises django.db.IntegrityError: a reference is in use.
    """
    with transaction.atomic():
        programs = {id(order.program): order.program for order in orders}
        prefetch_related_objects(list(programs.values()), "merchant", "tiers")
        tiers = {key: _tiers(program) for key, program in programs.items()}
        regulations = list(Regulation.objects.all())
        products = enrolment.products_of({program.merchant_id for program in programs.values()})
        opened: list[UUID] = []
        with prepared.in_a_row() if len(orders) > _IN_A_ROW else nullcontext():
            read_accounts = _link(orders, now)
            numbers = numbering.new_numbers(len(orders))
            seals = list(numbering.seal_all(numbers))
            # One by one as they are asked for: while the database writes some cards, the next are made ready.
            ready = (
                _opening(order, account_id, number, seal, tiers[id(order.program)], regulations)
                for order, account_id, number, seal in zip(orders, read_accounts(), numbers, seals, strict=True)
            )
            while some := list(islice(ready, _IN_A_ROW)):
                openings, covers = zip(*some, strict=True)
                ledger.open_cards(
                    openings, now=now, batch_id=batch.pk if batch else None, key=key, fingerprint=fingerprint
                )
                enrolment.owe(covers, now=now, products=products)
                opened += [opening.card_id for opening in openings]
    return opened


_IN_A_ROW = 250
"""Cards to a statement: enough that it pays, few enough that the database never waits for long."""


def _opening(
    order: Order,
    account_id: UUID,
    number: str,
    seal: bytes,
    tiers: Sequence[tuple[int, int]],
    regulations: Sequence[Regulation],
) -> tuple[ledger.Opening, enrolment.Cover]:
    """What the ledger is to open for an order, and what the insurer is owed for it."""
    program = order.program
    starts_on = rules.local_date(program.merchant, order.paid_at)
    regulation = rules.in_force(regulations, region=program.merchant.city, on_date=starts_on)
    terms = _split(program, order.amount, regulation, tiers)
    opening = ledger.Opening(
        card_id=new_id(),
        program_id=program.pk,
        account_id=account_id,
        number_hash=numbering.hash_number(number),
        last4=number[-4:],
        number_sealed=seal,
        expires_on=rules.expires_on(program, regulation, starts_on),
        load_id=new_id(),
        reference=order.reference,
        paid=order.amount,
        bonus=terms.bonus,
        face=terms.face,
        payment_method=order.payment_method,
        starts_on=starts_on,
        occurred_at=order.paid_at,
        sub_cards=terms.sub_cards,
    )
    cover = enrolment.Cover(opening.card_id, program.merchant_id, order.amount, starts_on, program.term_days)
    return opening, cover


def top_up(
    *,
    merchant: Merchant,
    card_id: UUID,
    amount: int,
    reference: str,
    payment_method: str,
    now: datetime,
    occurred_at: datetime | None = None,
    key: str | None = None,
    fingerprint: str = "",
) -> Posted:
    """Add a load to a card, split like a purchase, and owe the insurer the endorsement.

    The same rules of amount, identity and cash as for a purchase: a top-up is never a way around them.

    :raises CardNotFound, CardNotActive, ReferenceUsed, IdempotencyKeyReused: and what ``orders.check`` refuses.
    """
    occurred_at = occurred_at or now
    card = Card.objects.filter(merchant=merchant, pk=card_id).select_related("program", "network_account").first()
    if card is None:
        raise ledger.CardNotFound()
    program = card.program
    program.merchant = merchant
    account = card.network_account
    today = rules.local_date(merchant, occurred_at)
    regulation = rules.regulation_for(merchant, today)
    holder = Holder(account.holder_name, account.phone, is_organisation=account.is_organisation)
    rules.check(Order(program, amount, holder, reference, payment_method, occurred_at), regulation=regulation, now=now)
    terms = _split(program, amount, regulation, _tiers(program))
    load_id = new_id()
    with transaction.atomic():
        posted = ledger.top_up(
            merchant_id=merchant.pk,
            card_id=card_id,
            load_id=load_id,
            reference=reference,
            paid=amount,
            bonus=terms.bonus,
            face=terms.face,
            payment_method=payment_method,
            today=today,
            sub_cards=terms.sub_cards,
            occurred_at=occurred_at,
            now=now,
            key=key,
            fingerprint=fingerprint,
        )
        if not posted.replayed:
            enrolment.owe_increase(card_id=card_id, load=Load.objects.get(pk=load_id), today=today, now=now)
    return posted


def freeze(*, card: Card, reason: str, by: str, now: datetime) -> None:
    """Let nothing be spent from an active card.

    :raises IllegalMove: it is not active, or no longer.
    """
    _move(card, Card.State.ACTIVE, Card.State.FROZEN, reason, by, now)


def unfreeze(*, card: Card, reason: str, by: str, now: datetime) -> None:
    """Let a frozen card be spent from again. One frozen by a claim is freed by rejecting the claim.

    :raises IllegalMove: it is not frozen, or no longer.
    """
    _move(card, Card.State.FROZEN, Card.State.ACTIVE, reason, by, now)


def report_lost(*, card: Card, reason: str, by: str, now: datetime) -> None:
    """Stop a card whose number may be in wrong hands; it is freed by giving it a new number.

    :raises IllegalMove: it is neither active nor frozen.
    """
    # A claimed card has a way to LOST, too, but only a rejected claim takes it.
    if card.state not in (Card.State.ACTIVE, Card.State.FROZEN):
        raise IllegalMove(state=card.state)
    _move(card, card.state, Card.State.LOST, reason, by, now)


def replace(*, card: Card, reason: str, by: str, now: datetime) -> str:
    """Give a lost card a new number, which is returned; the old one is dead for ever.

    Loads, sub-cards, policy and history belong to the card, not to its number: everything moves with it. A card that
    was frozen when it was lost is frozen again: losing it is no way around that.

    :raises IllegalMove: the card was not reported lost.
    """
    number = numbering.new_number()
    old = RetiredNumber(number_hash=card.number_hash, card=card, last4=card.last4, reason=reason, recorded_at=now)
    with transaction.atomic():
        # A rejected claim made it LOST again; how it was before it was lost stands further back.
        reported = card.moves.filter(to_state=Card.State.LOST).exclude(from_state=Card.State.CLAIMED)
        loss = reported.order_by("-id").first()
        _move(
            card,
            Card.State.LOST,
            loss.from_state if loss else Card.State.ACTIVE,
            reason,
            by,
            now,
            number_hash=numbering.hash_number(number),
            last4=number[-4:],
            number_sealed=numbering.seal(number),
        )
        old.save(force_insert=True)
    return number


def close(*, card: Card, reason: str, by: str, now: datetime) -> Transaction:
    """End a card: take everything off it and owe the insurer the cancellation of its policy.

    The transaction's ``principal`` is what the merchant pays back, to an account of the holder's own name.

    :raises IllegalMove: it is neither active nor frozen, or no longer.
    """
    today = rules.local_date(card.merchant, now)
    reference = f"CLOSE-{card.pk.hex}"
    with transaction.atomic():
        taken = ledger.take_off(
            kind=Transaction.Kind.CLOSURE, cards=[(card.pk, reference, today)], occurred_at=now, now=now
        )
        if not taken:
            raise IllegalMove(state=Card.objects.values_list("state", flat=True).get(pk=card.pk))
        CardMove.objects.create(
            card=card, from_state=card.state, to_state=Card.State.CLOSED, reason=reason, by=by, recorded_at=now
        )
        enrolment.owe_cancellation(card_id=card.pk, today=today, now=now)
        closure = Transaction.objects.get(merchant=card.merchant_id, kind=Transaction.Kind.CLOSURE, reference=reference)
    card.state, card.remaining = Card.State.CLOSED, 0
    return closure


def issue_due_batches(*, now: datetime, seconds: float = 20) -> int:
    """Issue approved batches slice by slice, in turn, until ``seconds`` are over. Returns how many lines were settled.

    A worker that dies in a slice leaves nothing of it; its lease runs out and the next one goes on from there.
    """
    settled = 0
    until = monotonic() + seconds
    approved = Batch.objects.filter(state=Batch.State.APPROVED)
    while monotonic() < until and (leased := lease(approved, limit=1, seconds=BATCH_LEASE)):
        settled += issue_slice(batch=Batch.objects.get(pk=leased[0]), now=now)
        approved.filter(pk=leased[0]).update(due_at=Now())
    return settled


def issue_slice(*, batch: Batch, now: datetime, size: int = 3000) -> int:
    """Issue the next rows of an approved batch, in one transaction with the batch's progress.

    Returns how many lines were settled; 0 when the batch is issued. Killed anywhere, it goes on where it was. A row
    whose reference was used meanwhile, or whose merchant or program ended, is refused with its reason.

    :raises IllegalMove: nobody has approved it.
    """
    with transaction.atomic():
        # Locked first: whoever waited for another worker's lines would find none left of those it looked at, and
        # take the batch for issued.
        batch.refresh_from_db(from_queryset=Batch.objects.select_for_update())
        if batch.state == Batch.State.ISSUED:
            return 0
        if batch.state != Batch.State.APPROVED:
            raise IllegalMove(state=batch.state)
        # As plain values: three thousand models a slice would cost more than splitting their amounts.
        lines = [
            _Line(*values)
            for values in batch.lines.filter(refusal="", line__gt=batch.settled_line)
            .order_by("line")
            .values_list(*_Line._fields)[:size]
        ]
        if not lines:
            batch.move(Batch.State.ISSUED, finished_at=now, due_at=None)
            return 0
        orders = _orders(lines)
        used = set(
            Load.objects.filter(
                kind=Load.Kind.PURCHASE,
                merchant__in={order.program.merchant_id for order in orders},
                reference__in=[order.reference for order in orders],
            ).values_list("merchant_id", "reference")
        )
        good = []
        for line, order in zip(lines, orders, strict=True):
            program = order.program
            if (program.merchant_id, order.reference) in used:
                _refuse_line(line, ledger.ReferenceUsed(detail=order.reference))
            elif program.state != CardProgram.State.ACTIVE or program.merchant.state != Merchant.State.ACTIVE:
                _refuse_line(line, OpensNoMore())
            else:
                good.append((line, order))
        issued = _open_lines(good, batch=batch, now=now)
        Batch.objects.filter(pk=batch.pk).update(
            issued_rows=F("issued_rows") + issued,
            bad_rows=F("bad_rows") + len(lines) - issued,
            settled_line=lines[-1].line,
        )
    return len(lines)


class _Line(NamedTuple):
    """A good line of a batch; the database holds it to be whole."""

    pk: int
    line: int
    program_id: UUID
    holder_name: str
    phone: str
    amount: int
    paid_at: datetime
    payment_method: str
    reference: str


def _orders(lines: Sequence[_Line]) -> list[Order]:
    """The orders of good lines. The lines of a program share one instance of it, so its terms are read once."""
    programs = CardProgram.objects.select_related("merchant").in_bulk({line.program_id for line in lines})
    return [
        Order(
            programs[line.program_id],
            line.amount,
            Holder(line.holder_name, line.phone),
            line.reference,
            line.payment_method,
            line.paid_at,
        )
        for line in lines
    ]


def _open_lines(lines: Sequence[tuple[_Line, Order]], *, batch: Batch, now: datetime) -> int:
    """Open a card for each line. Where not all can be, halves are tried, down to the line that has to be refused."""
    if not lines:
        return 0
    try:
        with transaction.atomic():
            open_cards(orders=[order for _line, order in lines], now=now, batch=batch)
    except (Refused, IntegrityError) as problem:
        line, order = lines[0]
        if isinstance(problem, Refused):
            refusal = problem
        elif isinstance(problem.__cause__, UniqueViolation):
            refusal = ledger.ReferenceUsed(detail=order.reference)
        else:
            raise
        if len(lines) > 1:
            half = len(lines) // 2
            return _open_lines(lines[:half], batch=batch, now=now) + _open_lines(lines[half:], batch=batch, now=now)
        _refuse_line(line, refusal)
        return 0
    return len(lines)


def _refuse_line(line: _Line, refusal: Refused) -> None:
    BatchRow.objects.filter(pk=line.pk).update(refusal=refusal.code, reason=str(refusal)[:300])


def _move(card: Card, expected: str, to: str, reason: str, by: str, now: datetime, **facts: object) -> None:
    # The table of moves has several ways to ACTIVE; each verb is only one of them.
    if card.state != expected:
        raise IllegalMove(state=card.state)
    with transaction.atomic():
        card.move(to, **facts)
        CardMove.objects.create(card=card, from_state=expected, to_state=to, reason=reason, by=by, recorded_at=now)
        type = Event.Type.CARD_UNFROZEN if to == Card.State.ACTIVE else Event.Type.CARD_FROZEN
        events.record(type, merchant_id=card.merchant_id, subject_id=card.pk, card_id=card.pk, state=to, now=now)


def _refuse_used_reference(merchant_id: UUID, kind: str, reference: str) -> None:
    used = (
        Load.objects.filter(merchant=merchant_id, kind=kind, reference=reference).values_list("pk", flat=True).first()
    )
    if used is not None:
        raise ledger.ReferenceUsed(detail=str(used))


# Trying things out ---------------------------------------------------------------------------------------------


def make_test_twin(*, merchant: Merchant, now: datetime) -> Merchant:
    """The merchant's test twin with its programs, insurance and coupon products: what a ``sk_test_`` key acts on.

    Asked again it brings over what the merchant has got since; what is there stays as it is.

    :raises AlreadyATestMerchant:
    """
    with transaction.atomic():
        twin = merchants.make_test_twin(merchant)
        enrolment.copy_products(merchant=merchant, twin=twin)
        parameters.copy_products(merchant=merchant, twin=twin, now=now)
    return twin


def _link(orders: Sequence[Order], now: datetime) -> Callable[[], list[UUID]]:
    """How to read the network account of each order's holder at its merchant, made where there is none.

    An unnamed holder gets an account of his own for each card. What does not need the accounts can be made ready
    before they are read.
    """
    keys = [(order.program.merchant_id, _holder_key(order.holder)) for order in orders]
    # In one order for everybody: two batches with the same holders would otherwise wait for each other.
    wanted = sorted(dict(zip(keys, (order.holder for order in orders), strict=True)).items())
    rows = [
        (new_id(), *key, holder.name, holder.phone, holder.is_organisation,
         numbering.seal(holder.id_number) if holder.id_number else None)
        for key, holder in wanted
    ]  # fmt: skip
    cursor = connection.cursor()
    cursor.execute(_LINK, [now, *map(list, zip(*rows, strict=True))])
    cursor.execute(_LINKED, list(map(list, zip(*(key for key, _holder in wanted), strict=True))))

    def read() -> list[UUID]:
        with cursor:
            accounts = {(merchant, key): account for merchant, key, account in cursor.fetchall()}
        return [accounts[key] for key in keys]

    return read


_LINK = """
INSERT INTO prepaid_networkaccount (id, merchant_id, holder_key, holder_name, phone, is_organisation,
    id_number_sealed, recorded_at)
SELECT holder.*, %s
FROM unnest(%b::uuid[], %b::uuid[], %b::text[], %b::text[], %b::text[], %b::boolean[], %b::bytea[]) AS holder
ON CONFLICT (merchant_id, holder_key) DO NOTHING"""
_LINKED = """
SELECT a.merchant_id, a.holder_key, a.id FROM prepaid_networkaccount a
JOIN unnest(%b::uuid[], %b::text[]) AS wanted(merchant_id, holder_key) USING (merchant_id, holder_key)"""


def _holder_key(holder: Holder) -> str:
    if not (holder.name or holder.phone):
        return new_id().hex
    text = "\n".join([holder.name, holder.phone, "organisation" if holder.is_organisation else ""])
    return hashlib.sha256(text.encode()).hexdigest()[:32]
