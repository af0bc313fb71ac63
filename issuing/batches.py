"""Files of purchases on their way to becoming cards: staged, checked, approved by a second person.

Nothing is issued here: an approved batch is a row with a due time, and the clock finds it.
"""

import hashlib
from datetime import date, datetime
from itertools import islice
from typing import NamedTuple
from zoneinfo import ZoneInfo

from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.models import Count, Q, Sum
from django.utils.translation import gettext_lazy as _

from config import tiers
from config.errors import NotTheMaker, Refused, SamePerson
from config.money import parse_yuan
from issuing import importing, orders
from issuing.models import Batch, CardProgram, Merchant, Regulation
from issuing.orders import Holder, Order

COLUMNS = ("reference", "program", "holder_name", "phone", "prepaid_amount", "paid_at", "payment_method")
SLICE = 5_000


class ReferenceRepeated(Refused):
    text = _("Line %(line)s has the same reference.")


class AlreadyIssued(Refused):
    text = _("This reference was used before: the purchase has its card.")


class ProgramUnknown(Refused):
    status = 422
    text = _("No such card program.")


class NoRegulation(Refused):
    status = 422
    text = _("No regulation is recorded for %(date)s.")


class NothingToIssue(Refused):
    text = _("No row of this batch is good: there is nothing to issue.")


def stage(*, name: str, source: importing.Readable, made_by: User, now: datetime) -> Batch:
    """Check a file of purchases row by row and keep all of it, good and bad, for a second person to approve.

    Streams: neither the file nor its rows are ever held whole. All rows are kept or, if the file as such is not
    readable, none: the batch is then REJECTED and its ``problem`` says why and in which line. Identity, cash and
    amount rules are tested here on the order, before anything is split.
    """
    batch = Batch(name=name[:200], header=",".join(COLUMNS), made_by=made_by)
    file = _Hashed(source)
    try:
        with transaction.atomic():
            batch.save(force_insert=True)
            _copy(batch, file, now)
            _refuse_repeated(batch)
            _count(batch, file)
    except importing.FileRefused as refused:
        # The digest stays empty: a file that was not read to its end has none that we know.
        batch = Batch(name=name[:200], made_by=made_by, state=Batch.State.REJECTED)
        batch.problem = str(refused)
        batch.finished_at = now
        batch.save(force_insert=True)
    return batch


def approve(*, batch: Batch, by: User, now: datetime) -> None:
    """Let the good rows of a batch become cards; the clock issues them. The bad ones stay refused.

    :raises SamePerson: ``by`` prepared it.
    :raises NothingToIssue: every row is refused.
    :raises AboveTier: all of it together takes a senior approver.
    :raises IllegalMove: it is not, or no longer, waiting for approval.
    """
    if by.pk == batch.made_by_id:
        raise SamePerson()
    if batch.bad_rows >= batch.rows:
        raise NothingToIssue()
    # Rows and amount were counted in the move to STAGED, from which this one leads: they are what they were.
    tiers.check(amount=batch.good_amount, by=by)
    batch.move(Batch.State.APPROVED, approved_by=by, approved_at=now, due_at=now)


def reject(*, batch: Batch, by: User, reason: str, now: datetime) -> None:
    """Issue nothing of a batch that another person prepared.

    :raises SamePerson: ``by`` prepared it; they withdraw it.
    :raises IllegalMove: it is not, or no longer, waiting for approval.
    """
    if by.pk == batch.made_by_id:
        raise SamePerson()
    _end(batch, by, reason, now)


def withdraw(*, batch: Batch, by: User, reason: str, now: datetime) -> None:
    """Take back a batch that nobody has approved; nothing of it is issued.

    :raises NotTheMaker: somebody else prepared it.
    :raises IllegalMove: it is not, or no longer, waiting for approval.
    """
    if by.pk != batch.made_by_id:
        raise NotTheMaker()
    _end(batch, by, reason, now)


def _end(batch: Batch, by: User, reason: str, now: datetime) -> None:
    batch.move(Batch.State.REJECTED, problem=f"{by.get_username()}: {reason}", finished_at=now)


class _Hashed:
    """A file that knows the digest of what was read from it."""

    def __init__(self, source: importing.Readable) -> None:
        self._source = source
        self._hash = hashlib.sha256()

    def read(self, size: int) -> bytes:
        chunk = self._source.read(size)
        self._hash.update(chunk)
        return chunk

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


class _Row(NamedTuple):
    """A line as it is kept; the columns of ``_COPY``."""

    batch_id: object
    line: int
    raw: str
    reference: str = ""
    program_id: object = None
    holder_name: str = ""
    phone: str = ""
    amount: int | None = None
    paid_at: datetime | None = None
    payment_method: str = ""
    refusal: str = ""
    reason: str = ""


_COPY = f"COPY issuing_batchrow ({', '.join(_Row._fields)}) FROM STDIN"


def _copy(batch: Batch, file: _Hashed, now: datetime) -> None:
    checker = _Checker(batch, now)
    lines = importing.read(file, columns=COLUMNS)
    with connection.cursor() as cursor:
        while rows := list(map(checker.row, islice(lines, SLICE))):
            cursor.execute(_USED, [[row.program_id for row in rows], [row.reference for row in rows]])
            used = set(cursor.fetchall())
            with cursor.copy(_COPY) as copy:
                for row in rows:
                    copy.write_row(_already_issued(row) if (row.program_id, row.reference) in used else row)


# The ledger's loads are asked by name: they belong to a higher room, and its unique constraint has the last word when
# the batch is issued. This is only so that whoever prepares the batch hears of it now.
_USED = """
SELECT wanted.program, wanted.reference
FROM unnest(%s::uuid[], %s::text[]) AS wanted(program, reference)
JOIN issuing_cardprogram p ON p.id = wanted.program
JOIN prepaid_load l ON l.merchant_id = p.merchant_id AND l.kind = 'PURCHASE' AND l.reference = wanted.reference"""


def _already_issued(row: _Row) -> _Row:
    refused = AlreadyIssued()
    return row._replace(refusal=refused.code, reason=str(refused))


class _Checker:
    """The rules, with what they need at hand: half a million rows cannot ask the database one by one."""

    def __init__(self, batch: Batch, now: datetime) -> None:
        self.batch_id = batch.pk
        self.now = now
        self.programs = {
            program.code: program
            # A file of purchases is money: tests come through the API.
            for program in CardProgram.objects.filter(merchant__in=Merchant.objects.live())
            .select_related("merchant")
            .prefetch_related("tiers")
        }
        self.all_regulations = list(Regulation.objects.all())
        self.regulations: dict[tuple[str, date], Regulation] = {}
        self.zones = {
            program.merchant.time_zone: ZoneInfo(program.merchant.time_zone) for program in self.programs.values()
        }

    def row(self, line: importing.Line) -> _Row:
        reference = line.cells[0] if importing.is_reference(line.cells[0]) else ""
        try:
            order = self.order(line.cells)
            orders.check(order, regulation=self.regulation(order), now=self.now)
        except Refused as refused:
            return _Row(
                self.batch_id, line.number, line.raw, reference, refusal=refused.code, reason=str(refused)[:300]
            )
        return _Row(
            self.batch_id, line.number, line.raw, reference, order.program.pk, order.holder.name, order.holder.phone,
            order.amount, order.paid_at, order.payment_method,
        )  # fmt: skip

    def order(self, cells: list[str]) -> Order:
        """The order as a line tells it.

        :raises FormulaCell, ReferenceNotReadable, ProgramUnknown, AmountNotReadable, MomentNotReadable: among others.
        """
        reference, code, holder_name, phone, amount, paid_at, payment_method = cells
        importing.check_no_formula([reference, code, holder_name, phone, payment_method])
        importing.check_reference(reference)
        program = self.programs.get(code)
        if program is None:
            raise ProgramUnknown()
        order_amount = parse_yuan(amount)
        paid = importing.parse_moment(paid_at)
        return Order(program, order_amount, Holder(holder_name, phone), reference, payment_method, paid)

    def regulation(self, order: Order) -> Regulation:
        merchant = order.program.merchant
        on_date = order.paid_at.astimezone(self.zones[merchant.time_zone]).date()
        regulation = self.regulations.get((merchant.city, on_date))
        if regulation is None:
            try:
                regulation = orders.in_force(self.all_regulations, region=merchant.city, on_date=on_date)
            except LookupError as problem:
                raise NoRegulation(date=on_date.isoformat()) from problem
            self.regulations[merchant.city, on_date] = regulation
        return regulation


def _refuse_repeated(batch: Batch) -> None:
    """Refuse what bears the reference of an earlier line, good or bad."""
    refused = ReferenceRepeated(line="%s")
    with connection.cursor() as cursor:
        cursor.execute(_REFUSE_REPEATED, [refused.code, str(refused), batch.pk])


# In the database, because a set of half a million references in Python would be the largest thing in the process. No
# join by batch or reference: a table filled a moment ago has no statistics, and the plan would take it for empty.
_REFUSE_REPEATED = """
UPDATE issuing_batchrow r SET refusal = %s, reason = format(%s::text, later.first)
FROM (SELECT id, line, min(line) OVER (PARTITION BY reference) AS first
      FROM issuing_batchrow WHERE batch_id = %s AND reference <> '') later
WHERE r.id = later.id AND later.line > later.first AND r.refusal = ''"""


def _count(batch: Batch, file: _Hashed) -> None:
    good = Q(refusal="")
    sums = batch.lines.aggregate(
        rows=Count("pk"), bad_rows=Count("pk", filter=~good), good_amount=Sum("amount", filter=good)
    )
    sums["good_amount"] = sums["good_amount"] or 0
    # Programs are few: which of them are in the file says whose it is.
    programs = batch.lines.filter(good).order_by().values("program").distinct()
    owners = list(Merchant.objects.filter(programs__in=programs).order_by().distinct()[:2])
    owner = owners[0] if len(owners) == 1 else None
    batch.move(Batch.State.STAGED, sha256=file.hexdigest(), merchant=owner, **sums)
