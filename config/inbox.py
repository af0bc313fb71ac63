"""The approvals inbox: everything that waits for a second person, in one list, the oldest first.

One query for each kind, through its own page's rows, by the partial index on what waits: however much history there is.
"""

from typing import Any, NamedTuple
from urllib.parse import urlencode

from django.contrib import admin
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from config import tiers
from config.admin import NOTHING, Button, House, badge, figure, kinds_that_wait, link, yuan

SHOWN = 50
MINE = "mine"
HEADS = (
    _("kind"), _("what"), _("merchant"), _("amount"), _("age"), _("prepared by"), _("decided by"),
)  # fmt: skip


class Item:
    """One record that waits."""

    def __init__(self, request: HttpRequest, house: House, row: Any) -> None:
        assert house.waiting is not None  # noqa: S101  the caller chose it by that
        self.request, self.house, self.row, self.waiting = request, house, row, house.waiting
        self.since = _follow(row, self.waiting.since)

    @property
    def kind(self) -> str:
        return capfirst(str(self.house.opts.verbose_name))

    @property
    def name(self) -> Any:
        return link(self.row, self.waiting.name(self.row))

    @property
    def merchant(self) -> Any:
        return _follow(self.row, self.waiting.merchant) or NOTHING

    @cached_property
    def _amount(self) -> int | None:
        worth = self.house.verb(self.waiting.verbs[0]).amount
        return worth(self.row) if worth else None

    @property
    def amount(self) -> Any:
        return yuan(self._amount)

    @property
    def age(self) -> Any:
        waited = timezone.now() - self.since
        hours = waited.days * 24 + waited.seconds // 3600
        if hours < 48:
            return figure(ngettext("%(n)s hour", "%(n)s hours", hours) % {"n": hours})
        return figure(ngettext("%(n)s day", "%(n)s days", waited.days) % {"n": waited.days})

    @property
    def asked_by(self) -> Any:
        return _follow(self.row, self.waiting.asked_by) or NOTHING

    @property
    def tier(self) -> Any:
        is_large = tiers.is_large(self._amount)
        return badge("OPEN" if is_large else "ENDED", _("senior approver") if is_large else _("approver"))

    @property
    def cells(self) -> list[tuple[object, object]]:
        values = (self.kind, self.name, self.merchant, self.amount, self.age, self.asked_by, self.tier)
        return list(zip(HEADS, values, strict=True))

    @property
    def buttons(self) -> list[Button]:
        """What this person may do about it; afterwards they are here again."""
        offered = self.house.buttons(self.request, self.row, names=self.waiting.verbs)
        return [one._replace(address=f"{one.address}?then=inbox") for one in offered]

    @property
    def is_for_me(self) -> bool:
        """Whether this person has the verb for it and somebody else prepared it."""
        may = self.house.may(self.request, self.house.verb(self.waiting.verbs[0]))
        return may and _follow(self.row, self.waiting.asked_by) != self.request.user

    @property
    def why_not(self) -> object:
        """Why they do not let it through, where they have the verb for it."""
        decisive = self.house.buttons(self.request, self.row, names=self.waiting.verbs[:1])
        return decisive[0].barred if decisive else ""


class Tab(NamedTuple):
    name: str
    title: object
    number: str
    address: str


def _follow(row: Any, path: str) -> Any:
    for name in path.split("__"):
        row = None if row is None else getattr(row, name)
    return row


def to_decide(request: HttpRequest) -> int | None:
    """How many wait that others prepared and this person has the verb for, at most ``SHOWN`` + 1 of a kind; None: for
    no kind they have."""
    counts = []
    for house in kinds_that_wait(request):
        waiting = house.waiting
        if waiting is not None and house.may(request, house.verb(waiting.verbs[0])):
            rows = waiting.rows(house.get_queryset(request)).exclude(**{waiting.asked_by: request.user})
            counts.append(rows.order_by()[: SHOWN + 1].count())
    return sum(counts) if counts else None


def waiting(request: HttpRequest, house: House, *, after: str = "") -> list[Item]:
    """The oldest of a kind, one more than are shown at once."""
    assert house.waiting is not None  # noqa: S101
    paths = [name for name in (house.waiting.asked_by, house.waiting.merchant) if name]
    rows = house.waiting.rows(house.record_queryset(request)).select_related(*paths).order_by("pk")
    if after:
        rows = rows.filter(pk__gt=house.opts.pk.to_python(after))
    return [Item(request, house, row) for row in rows[: SHOWN + 1]]


def page(request: HttpRequest) -> HttpResponse:
    """The oldest of all kinds, or of one (``kind``), from where the page before ended (``after``)."""
    houses = {str(house.opts.model_name): house for house in kinds_that_wait(request)}
    if not houses:
        raise PermissionDenied
    kind = request.GET.get("kind", "")
    after = request.GET.get("after", "") if kind in houses else ""
    try:
        found = {name: waiting(request, house, after=after if name == kind else "") for name, house in houses.items()}
    except (ValueError, ValidationError):
        return HttpResponseRedirect(request.path)
    everything = sorted((one for each in found.values() for one in each), key=_since)
    mine = [one for one in everything if one.is_for_me]
    shown = found[kind] if kind in houses else mine if kind == MINE else everything
    where = reverse("inbox")
    tabs = [
        Tab("", _("All"), _bounded(len(everything)), where),
        Tab(MINE, _("for me"), _bounded(len(mine)), f"{where}?kind={MINE}"),
    ]
    tabs += [
        Tab(name, capfirst(str(house.opts.verbose_name_plural)), _bounded(len(found[name])), f"{where}?kind={name}")
        for name, house in houses.items()
    ]
    more = ""
    if kind in houses and len(shown) > SHOWN:
        more = f"{where}?{urlencode({'kind': kind, 'after': shown[SHOWN - 1].row.pk})}"
    context = {
        **admin.site.each_context(request),
        "title": _("Approvals"),
        "tabs": tabs,
        "heads": [figure(head) if head in (HEADS[3], HEADS[4]) else head for head in HEADS],
        "kind": kind if kind in houses or kind == MINE else "",
        "items": shown[:SHOWN],
        "is_cut": len(shown) > SHOWN,
        "more": more,
    }
    return TemplateResponse(request, "admin/inbox.html", context)


def _since(item: Item) -> Any:
    return item.since


def _bounded(count: int) -> str:
    return f"{SHOWN}+" if count > SHOWN else str(count)
