"""A folder of files becomes merchants, cards and transactions, through the verbs that everyone uses.

Every step can be stopped at any moment and started again: what is there already is found by its code, its file's
digest or its key, and is not done twice. What cannot be done is refused row by row into a report.
"""

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TextIO
from uuid import UUID

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import connection, models, transaction
from django.db.models import Exists, OuterRef
from django.utils.translation import gettext_lazy as _

from config.errors import Refused
from config.money import parse_yuan
from config.spreadsheets import without_formula
from insurance import insurer
from insurance.models import Insurer, Policy, Product
from issuing import batches, importing
from issuing.models import Batch, BonusTier, CardProgram, Merchant
from prepaid import figures, ledger, processing
from prepaid.models import Load, RefusedPayment, Transaction

MERCHANTS = ("code", "name", "sector", "city")
PROGRAMS = (
    "code", "merchant", "kind", "named", "card_limit", "bonus_tiers", "rate", "uses", "single_use_price", "price",
    "term_days",
)  # fmt: skip
FILES = ("merchants.csv", "programs.csv", "insurance.csv", "purchases.csv", "payments.csv")
INSURANCE = (
    "merchant", "insurer", "product", "annual_rate", "basis", "coverage_ratio", "deductible_rate",
    "deductible_amount", "minimum_premium",
)  # fmt: skip
PAYMENTS = ("reference", "purchase_reference", "list_amount", "uses", "occurred_at", "store")

TERMS_FROM = date(2000, 1, 1)
"""The files give insurance terms without a date: so they were in force on every day that a purchase can name."""

PATIENCE = 90.0
"""Seconds without any answer of the insurer after which the cards are left to the clock. Longer than the lease on what
a killed run had in hand."""

_SLICE = 500
_NUMBER = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_SHARE = re.compile(r"[01](\.[0-9]{1,6})?", re.ASCII)


class RecordedOtherwise(Refused):
    text = _("%(what)s is there already, with another %(fields)s.")


class MerchantUnknown(Refused):
    status = 422
    text = _("No such merchant.")


class CellNotReadable(Refused):
    status = 422
    text = _("“%(cell)s” is not what column %(column)s holds.")


class RecordNotValid(Refused):
    status = 422
    text = _("%(problems)s")


class PurchaseUnknown(Refused):
    status = 404
    text = _("There is no card for this purchase.")


class PurchaseAmbiguous(Refused):
    text = _("Several merchants have a purchase of this reference.")


class Report:
    """What was refused, row by row, as a list that a spreadsheet opens."""

    def __init__(self, file: TextIO) -> None:
        self._writer = csv.writer(file)
        self._writer.writerow(["file", "line", "reference", "code", "reason"])
        self.codes: Counter[tuple[str, str]] = Counter()

    def refuse(self, file: str, line: int | None, reference: str, code: str, reason: str) -> None:
        self.codes[file, code] += 1
        cells = [file, "" if line is None else str(line), reference, code, reason]
        self._writer.writerow(map(without_formula, cells))


Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done and how much there is."""


def run(
    folder: Path, *, as_of: datetime, clock: Callable[[], datetime], report: Report, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Do the whole folder, in the order in which one file needs another, and return its merchants' figures.

    Files that are not there are passed over.
    """
    if (folder / "merchants.csv").exists():
        merchants(folder, report=report)
    if (folder / "programs.csv").exists():
        programs(folder, report=report)
    if (folder / "insurance.csv").exists():
        insurance(folder, report=report)
    if (folder / "purchases.csv").exists():
        purchases(folder, now=clock(), report=report, progress=progress)
    enrol(clock=clock, progress=progress)
    if (folder / "payments.csv").exists():
        payments(folder, now=clock(), report=report, progress=progress)
    return figures.as_at(as_of, merchants=list(Merchant.objects.live()))


# Merchants, programs, insurance -------------------------------------------------------------------------------


def merchants(folder: Path, *, report: Report) -> None:
    """Record the merchants of ``merchants.csv`` that are not there yet."""

    def record(code: str, name: str, sector: str, city: str) -> None:
        _record(Merchant, {"code": code}, name=name, sector=sector, city=city)

    _each(folder / "merchants.csv", MERCHANTS, record, report)


def programs(folder: Path, *, report: Report) -> None:
    """Record the card programs of ``programs.csv`` with their bonus tiers."""

    def record(
        code: str, merchant: str, kind: str, named: str, card_limit: str, bonus_tiers: str, rate: str, uses: str,
        single_use_price: str, price: str, term_days: str,
    ) -> None:  # fmt: skip
        if named not in ("0", "1"):
            raise CellNotReadable(cell=named[:40], column="named")
        tiers = _tiers(bonus_tiers)
        with transaction.atomic():
            program = _record(
                CardProgram,
                {"code": code},
                merchant=_merchant(merchant),
                kind=kind,
                named=named == "1",
                card_limit=parse_yuan(card_limit),
                rate=_share(rate, "rate") if rate else None,
                uses=_number(uses, "uses") if uses else None,
                single_use_price=parse_yuan(single_use_price) if single_use_price else None,
                price=parse_yuan(price) if price else None,
                term_days=_number(term_days, "term_days"),
            )
            there = sorted(program.tiers.values_list("from_amount", "gift"))
            if there and there != tiers:
                raise RecordedOtherwise(what=code, fields="bonus_tiers")
            if not there:
                for from_amount, gift in tiers:
                    BonusTier.objects.create(program=program, from_amount=from_amount, gift=gift)

    _each(folder / "programs.csv", PROGRAMS, record, report)


def insurance(folder: Path, *, report: Report) -> None:
    """Record on which terms each merchant's cards are insured, from ``insurance.csv``."""

    def record(
        merchant: str, company: str, product: str, annual_rate: str, basis: str, coverage_ratio: str,
        deductible_rate: str, deductible_amount: str, minimum_premium: str,
    ) -> None:  # fmt: skip
        _record(
            Product,
            {"merchant": _merchant(merchant), "valid_from_date": TERMS_FROM},
            insurer=_record(Insurer, {"code": company}, name=company),
            code=product,
            annual_rate=_share(annual_rate, "annual_rate"),
            basis=basis,
            coverage_ratio=_share(coverage_ratio, "coverage_ratio"),
            deductible_rate=_share(deductible_rate, "deductible_rate"),
            deductible_amount=_yuan_or_nothing(deductible_amount),
            minimum_premium=_yuan_or_nothing(minimum_premium),
        )

    _each(folder / "insurance.csv", INSURANCE, record, report)


def _each(path: Path, columns: Sequence[str], record: Callable[..., None], report: Report) -> None:
    with path.open("rb") as source:
        try:
            for line in importing.read(source, columns=columns):
                try:
                    importing.check_no_formula(line.cells)
                    record(*line.cells)
                except Refused as refused:
                    report.refuse(path.name, line.number, line.cells[0], refused.code, str(refused))
        except importing.FileRefused as refused:
            report.refuse(path.name, None, "", refused.code, str(refused))


def _record(model: type[models.Model], identity: dict[str, Any], **facts: Any) -> Any:
    """The row with this identity, made if there is none.

    :raises RecordedOtherwise: it is there and other ``facts`` stand in it.
    :raises RecordNotValid: it cannot be.
    """
    row = model._default_manager.filter(**identity).first()
    if row is None:
        row = model(**identity, **facts)
        try:
            row.full_clean()
        except ValidationError as problem:
            raise RecordNotValid(problems=" ".join(problem.messages)) from problem
        row.save(force_insert=True)
        return row
    others = [name for name, value in facts.items() if getattr(row, name) != value]
    if others:
        raise RecordedOtherwise(what=", ".join(map(str, identity.values())), fields=", ".join(others))
    return row


def _merchant(code: str) -> Merchant:
    merchant = Merchant.objects.filter(code=code).first()
    if merchant is None:
        raise MerchantUnknown()
    return merchant


def _tiers(text: str) -> list[tuple[int, int]]:
    """``1000.00:200.00;3000.00:1000.00`` as pairs of fen, lowest first."""
    tiers = []
    for tier in filter(None, text.split(";")):
        start, colon, gift = tier.partition(":")
        if not colon:
            raise CellNotReadable(cell=text[:40], column="bonus_tiers")
        tiers.append((parse_yuan(start), parse_yuan(gift)))
    return sorted(tiers)


def _number(text: str, column: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise CellNotReadable(cell=text[:40], column=column)
    return int(text)


def _share(text: str, column: str) -> Decimal:
    if not _SHARE.fullmatch(text):
        raise CellNotReadable(cell=text[:40], column=column)
    return Decimal(text)


def _yuan_or_nothing(text: str) -> int:
    return 0 if re.fullmatch(r"0(\.00?)?", text) else parse_yuan(text)


# Purchases ----------------------------------------------------------------------------------------------------


def purchases(folder: Path, *, now: datetime, report: Report, progress: Progress) -> None:
    """Stage ``purchases.csv``, approve it as a second person and issue its good rows, slice by slice.

    The same file is staged once: a second run goes on with the batch that the first one left.
    """
    path = folder / "purchases.csv"
    maker, checker = _person("ingest-maker"), _person("ingest-checker")
    batch = _staged_before(path, maker)
    if batch is None:
        progress("staging purchases", 0, 0)
        with path.open("rb") as source:
            batch = batches.stage(name=path.name, source=source, made_by=maker, now=now)
    if batch.state == Batch.State.REJECTED:
        report.refuse(path.name, None, "", "FileRefused", batch.problem)
        return
    if batch.state == Batch.State.STAGED and batch.bad_rows < batch.rows:
        batches.approve(batch=batch, by=checker, now=now)
    if batch.state == Batch.State.APPROVED:
        while processing.issue_slice(batch=batch, now=now):
            batch.refresh_from_db()
            progress("issuing cards", batch.issued_rows, batch.rows - batch.bad_rows)
    for line in _refused_lines(batch).iterator(chunk_size=2000):
        report.refuse(path.name, line.line, line.reference, line.refusal, line.reason)


def _person(username: str) -> User:
    """One of the two that stand for the people of a batch; nobody can sign in as them."""
    person, made = User.objects.get_or_create(username=username, defaults={"is_active": False})
    if made:
        person.set_unusable_password()
        person.save(update_fields=["password"])
    return person


def _staged_before(path: Path, maker: User) -> Batch | None:
    with path.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
    batch = (
        Batch.objects.filter(sha256=digest, made_by=maker)
        .exclude(state=Batch.State.REJECTED)
        .order_by("recorded_at")
        .last()
    )
    if batch and batch.bad_rows and CardProgram.objects.filter(recorded_at__gt=batch.recorded_at).exists():
        # What was refused then may be right by now, if it was for want of its program.
        return None
    return batch


def _refused_lines(batch: Batch) -> models.QuerySet[Any]:
    """The refused lines of a batch, without those whose very purchase has its card by another batch already."""
    same = Load.objects.filter(
        merchant=OuterRef("program__merchant"),
        kind=Load.Kind.PURCHASE,
        reference=OuterRef("reference"),
        card__program=OuterRef("program"),
        paid=OuterRef("amount"),
        occurred_at=OuterRef("paid_at"),
    )
    is_issued = Exists(same) & models.Q(refusal__in=[batches.AlreadyIssued.code, ledger.ReferenceUsed.code])
    return batch.lines.exclude(refusal="").exclude(is_issued).order_by("line")


# Enrolment ----------------------------------------------------------------------------------------------------


def enrol(*, clock: Callable[[], datetime], progress: Progress) -> int:
    """Have every card insured that is owed it; returns how many policies are still open.

    Not all are settled where the insurer stays silent for ``PATIENCE``: what is owed stays owed, and the clock goes on
    with it.
    """
    open_policies = Policy.objects.filter(state__in=[Policy.State.PENDING, Policy.State.UNKNOWN])
    total = left = open_policies.count()
    until = monotonic() + PATIENCE
    while left and monotonic() < until:
        if insurer.sweep(now=clock(), seconds=2):
            until = monotonic() + PATIENCE
        else:
            # Nothing is due: the pauses between questions are the partner's, and short of them there is nothing to do.
            sleep(0.2)
        left = open_policies.count()
        progress("insuring cards", total - left, total)
    return left


# Payments -----------------------------------------------------------------------------------------------------


def payments(folder: Path, *, now: datetime, report: Report, progress: Progress) -> None:
    """Post one payment per row of ``payments.csv``, in the file's order.

    A repeat answers the first, since a row's reference is its key. What is refused stays as a ``RefusedPayment``.
    """
    path = folder / "payments.csv"
    with path.open("rb") as source:
        total = sum(chunk.count(b"\n") for chunk in iter(lambda: source.read(1 << 20), b"")) - 1
    with connection.cursor() as cursor:
        # Waiting for the disk after every row would take longer than the payment. A power cut may forget the last
        # moments of a run; the next run does them again.
        cursor.execute("SET synchronous_commit = off")
    owners = list(Merchant.objects.live().values_list("pk", flat=True))
    with path.open("rb") as source:
        try:
            lines = importing.read(source, columns=PAYMENTS)
            done = 0
            while part := list(islice(lines, _SLICE)):
                _keep(path.name, part, _post(part, owners, path.name, now=now, report=report), now=now)
                done += len(part)
                progress("posting payments", done, total)
        except importing.FileRefused as problem:
            report.refuse(path.name, None, "", problem.code, str(problem))
        finally:
            # The setting goes with its connection. Ctrl-C may have cut a statement short, and on a connection that
            # still waits for an answer nothing could be set back.
            connection.close()


def _post(
    lines: Sequence[importing.Line], owners: list[UUID], file: str, *, now: datetime, report: Report
) -> dict[int, RefusedPayment]:
    """A slice of payments; those that were refused, by their line. Cards, and what an earlier run has posted, are
    looked up for all of them at once."""
    cards: dict[str, list[tuple[UUID, UUID]]] = {}
    loads = Load.objects.filter(
        merchant__in=owners, kind=Load.Kind.PURCHASE, reference__in={line.cells[1] for line in lines}
    )
    for purchase, owner, card in loads.values_list("reference", "merchant_id", "card_id"):
        cards.setdefault(purchase, []).append((owner, card))
    posted = set(
        Transaction.objects.filter(
            merchant__in=owners, idempotency_key__in=[_key(line.cells[0]) for line in lines]
        ).values_list("merchant_id", "idempotency_key", "fingerprint")
    )
    refused = {}
    for line in lines:
        reference, purchase, list_amount, uses, moment, store = line.cells
        found = cards.get(purchase, [])
        merchant_id, card_id = found[0] if len(found) == 1 else (None, None)
        occurred_at = None
        key, fingerprint = _key(reference), _fingerprint(line)
        if (merchant_id, key, fingerprint) in posted:
            continue
        try:
            importing.check_no_formula(line.cells)
            importing.check_reference(reference)
            if len(store) > 32:
                raise CellNotReadable(cell=store[:40], column="store")
            occurred_at = importing.parse_moment(moment)
            if not found:
                raise PurchaseUnknown()
            if merchant_id is None or card_id is None:
                raise PurchaseAmbiguous()
            ledger.pay(
                merchant_id=merchant_id,
                card_id=card_id,
                reference=reference,
                occurred_at=occurred_at,
                now=now,
                list_amount=parse_yuan(list_amount) if list_amount else None,
                uses=_number(uses, "uses") if uses else None,
                store=store,
                key=key,
                fingerprint=fingerprint,
            )
        except Refused as problem:
            report.refuse(file, line.number, reference, problem.code, str(problem))
            refused[line.number] = RefusedPayment(
                merchant_id=merchant_id,
                card_id=card_id,
                file=file[:100],
                line=line.number,
                reference=reference[:200],
                purchase_reference=purchase[:200],
                raw=line.raw,
                fingerprint=fingerprint,
                occurred_at=occurred_at,
                refusal=problem.code,
                reason=str(problem)[:300],
                recorded_at=now,
                refused_at=now,
            )
    return refused


_OF_A_REFUSAL = (
    "merchant", "card", "line", "purchase_reference", "raw", "fingerprint", "occurred_at", "refusal", "reason",
    "refused_at", "posted_at",
)  # fmt: skip


def _keep(file: str, lines: Sequence[importing.Line], refused: Mapping[int, RefusedPayment], *, now: datetime) -> None:
    """Keep what was refused of a slice, each line once, and mark what was refused before and is posted now."""
    there = list(RefusedPayment.objects.filter(file=file[:100], reference__in={line.cells[0][:200] for line in lines}))
    if not (there or refused):
        return
    by_content = {row.fingerprint: row for row in there}
    by_place = {(row.reference, row.line): row for row in there}
    new: dict[str, RefusedPayment] = {}
    changed: dict[UUID, RefusedPayment] = {}
    for line in lines:
        refusal = refused.get(line.number)
        before = by_content.get(_fingerprint(line)) or by_place.get((line.cells[0][:200], line.number))
        if refusal is None:
            if before and before.posted_at is None:
                before.posted_at = now
                changed[before.pk] = before
        elif before is None:
            # The same line twice in one file is one refusal.
            new.setdefault(refusal.fingerprint, refusal)
        else:
            for name in _OF_A_REFUSAL:
                setattr(before, name, getattr(refusal, name))
            changed[before.pk] = before
    with transaction.atomic():
        RefusedPayment.objects.bulk_update(changed.values(), _OF_A_REFUSAL)
        RefusedPayment.objects.bulk_create(new.values())


def _fingerprint(line: importing.Line) -> str:
    return hashlib.sha256("\x1f".join(line.cells).encode()).hexdigest()


def _key(reference: str) -> str:
    return f"ingest:{reference}"
