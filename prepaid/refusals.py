"""The catalogue of what the merchant API refuses: every code with its status and meaning, read from the code itself."""

from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import translation
from django.views.decorators.http import require_safe

from claims import adjudication
from config import api, errors, limits, money, states
from config.errors import NotFound, Refused
from insurance import enrolment, insurer
from issuing import keys, merchants, orders, split, webhooks
from points import accounts, bank, coupons, exchange, guessing, parameters
from points import views as points_views
from prepaid import endpoint, ledger, sandbox, views

# Where a merchant's request can be refused, and what in these rooms only staff can run into.
ROOMS: tuple[ModuleType, ...] = (
    api, errors, limits, money, states, keys, orders, split, ledger, enrolment, endpoint, views, accounts, guessing,
    parameters, exchange, coupons, points_views, webhooks, insurer, bank, merchants, sandbox,
)  # fmt: skip
STAFF_ONLY = {
    "Refused", "SamePerson", "NotTheMaker", "ScopeUnknown", "ExpiryPassed", "KeyReplaced", "KeyEnded",
    "AmountNotReadable", "RatioNotPositive", "RatioTooFine",
    "BeginsInThePast", "EndsBeforeItBegins", "ReasonNeeded", "SettlementNotPossible", "MustExpireLater",
    "SignInRefused", "AlreadyATestMerchant", "NotATestMerchant",
}  # fmt: skip
CLAIMING = (
    adjudication.NoInsuredEvent, adjudication.AlreadyClaimed, adjudication.NothingToClaim, adjudication.LossInFuture,
    adjudication.AlreadyDeclared, adjudication.JobInProgress,
)  # fmt: skip


DOCUMENT = settings.BASE_DIR / "docs" / "api" / "README.md"
ERRORS = DOCUMENT.with_name("errors.md")


class Entry(NamedTuple):
    code: str
    status: int
    cause: str
    remedy: str
    can_be_sent_again: bool


def catalogue() -> list[Entry]:
    """Every refusal of the API, by status and code."""
    found = {refusal.code: refusal for refusal in _refusals() if refusal.code not in STAFF_ONLY}
    return sorted(
        (
            Entry(one.code, one.status, str(one.text) % _Ellipsis(), str(one.remedy), one.can_be_sent_again)
            for one in found.values()
        ),
        key=lambda entry: (entry.status, entry.code),
    )


def _refusals() -> Iterator[type[Refused]]:
    yield from CLAIMING
    for room in ROOMS:
        for thing in vars(room).values():
            if isinstance(thing, type) and issubclass(thing, Refused):
                yield thing


class _Ellipsis(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return "…"


def as_markdown() -> str:
    """The catalogue in both languages, as it is kept beside the document: ``manage.py api_errors`` writes it."""
    parts = [
        "# What the merchant API refuses\n\n"
        "Made from the code by `manage.py api_errors`. One code has one status. *Again*: the very same request, with "
        "the same\nIdempotency-Key, may come through later; with any other, something has to change first."
    ]
    for language, title, head in (
        ("en", "English", "| Status | Code | Cause | Remedy | Again |"),
        ("zh-hans", "中文", "| 状态 | 代码 | 原因 | 处理 | 可重发 |"),
    ):
        with translation.override(language):
            rows = [
                f"| {one.status} | `{one.code}` | {one.cause} | {one.remedy} | {'✓' if one.can_be_sent_again else ''} |"
                for one in catalogue()
            ]
        parts.append("\n".join([f"## {title}\n", head, "|---|---|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


@require_safe
def document(request: HttpRequest, name: str) -> HttpResponse:
    """A page for merchants' developers, as it is kept."""
    page = DOCUMENT.with_name(name)
    if not page.is_file():
        return api.problem(NotFound(), request)
    return HttpResponse(page.read_text(encoding="utf-8"), content_type="text/plain; charset=utf-8")


@require_safe
def page(request: HttpRequest) -> HttpResponse:
    """The page that the ``type`` of every problem links to."""
    return render(request, "prepaid/refusals.html", {"catalogue": catalogue()})
