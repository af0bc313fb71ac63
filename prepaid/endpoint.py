"""An address of the merchant API: who asks, for whose data, and one effect for one Idempotency-Key."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from config import addresses, api, limits
from config.api import Member
from config.errors import NotFound, Refused
from config.ids import parse_id, public_id
from issuing import keys
from issuing.models import Merchant, MerchantKey
from prepaid import answers, ledger


class IdempotencyKeyMissing(Refused):
    status = 400
    text = _("Send an Idempotency-Key with every request that changes something.")
    remedy = _("Send a new key with each new request, and the same one with its repetition.")


class IdempotencyKeyNotValid(Refused):
    status = 400
    text = _("An Idempotency-Key has 1 to 255 visible ASCII characters.")
    remedy = _("Use for example a random UUID.")


_KEY = re.compile(r"[\x21-\x7e]{1,255}")

REFERENCE = api.text(most=64)
Where = str | Callable[[Merchant, Any], Q]
"""What a filter stands for: a look-up, or a condition on the merchant and the value."""

Filters = Mapping[str, tuple[Where, Member]]


class Endpoint(api.Endpoint):
    """An address of one merchant's data: whoever holds a key of the merchant with the scope may ask.

    Every look-up goes through the merchant, so what is another's is not there at all.
    """

    scopes: ClassVar[Mapping[str, str]] = {"get": "cards:read", "post": "cards:write"}
    counted: ClassVar[Mapping[str, str]] = {"get": "read", "post": "write"}
    """Against which limit a request counts (config.limits)."""

    refused_always: ClassVar = (
        *api.Endpoint.refused_always, keys.KeyNotAccepted, keys.ScopeMissing, limits.TooManyRequests,
        limits.LimitsUnknown,
    )  # fmt: skip
    refused_keys: ClassVar = (IdempotencyKeyMissing, IdempotencyKeyNotValid, ledger.IdempotencyKeyReused)
    referred: ClassVar = "txn"
    """The prefix of what a reference was used for, where the refusal only has its identity."""

    follows_test_clock: ClassVar[bool] = True
    """Whether a test merchant's own clock says what time it is for the verbs called here."""

    standing: limits.Standing | None = None
    key: MerchantKey
    is_known = False

    def admit(self, request: HttpRequest) -> None:
        self.asked_at = self.now = timezone.now()
        address = addresses.asker(request)
        scheme, _blank, text = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
        try:
            self.key = keys.find(text if scheme.lower() == "bearer" else "", address=address, now=self.now)
        except keys.KeyNotAccepted:
            self._count("guess", str(address))
            raise
        self.is_known = True
        self.merchant = self.key.merchant
        if self.follows_test_clock:
            self.now = self.merchant.moment(self.asked_at)
        self.zone = ZoneInfo(self.merchant.time_zone)
        kind = self.counted.get("post" if request.method == "POST" else "get", "read")
        self._count(kind, self.key.pk.hex, own=self.merchant.rate_limits)

    def _count(self, kind: str, whose: str, own: Mapping[str, int] | None = None) -> None:
        self.standing = limits.take(kind, whose, own=own)
        if self.standing is not None and not self.standing.passes:
            raise limits.TooManyRequests(most=self.standing.most, seconds=self.standing.seconds)

    def permit(self, request: HttpRequest) -> None:
        scope = self.scopes["post" if request.method == "POST" else "get"]
        if scope not in self.key.scopes:
            raise keys.ScopeMissing(scope=scope)

    def finish(self, response: HttpResponse) -> HttpResponse:
        if self.standing is not None:
            response.headers["RateLimit-Limit"] = str(self.standing.most)
            response.headers["RateLimit-Remaining"] = str(self.standing.left)
            response.headers["RateLimit-Reset"] = str(self.standing.seconds)
        if self.is_known and keys.is_use_worth_noting(self.key, now=self.asked_at):
            api.after(response, partial(keys.note_use, self.key, now=self.asked_at))
        return response

    def refuse(self, refusal: Refused, request: HttpRequest) -> HttpResponse:
        if isinstance(refusal, ledger.ReferenceUsed):
            first = str(refusal.facts["detail"])
            if "_" not in first:  # as the ledger says it
                first = public_id(self.referred, UUID(first))
            return api.problem(ledger.ReferenceUsed(detail=first), request, first=first)
        return super().refuse(refusal, request)

    # Finding

    def one(self, rows: QuerySet[Any], prefix: str, text: str, missing: type[NotFound]) -> Any:
        found = parse_id(prefix, text)
        row = rows.filter(merchant=self.merchant, pk=found).first() if found else None
        if row is None:
            raise missing()
        # At hand already, with its time zone: the rows need not bring it along.
        row.merchant = self.merchant
        return row

    # Answering

    def answer(self, body: object, status: int = 200) -> HttpResponse:
        return api.respond(api.dump(body), status=status)

    def listed(
        self,
        request: HttpRequest,
        rows: QuerySet[Any],
        filters: Filters,
        shape: Callable[[list[Any]], list[Any]],
        page: Callable[[QuerySet[Any], api.Asked], tuple[list[Any], str | None]] = api.page,
    ) -> HttpResponse:
        """A page of the merchant's rows, by the ``filters`` that the query names."""
        members = {name: member for name, (_where, member) in filters.items()}
        asked = api.read_list(request, members, asker=self.merchant.pk.hex)
        rows = rows.filter(merchant=self.merchant)
        for name, value in asked.filters.items():
            where = filters[name][0]
            rows = rows.filter(**{where: value}) if isinstance(where, str) else rows.filter(where(self.merchant, value))
        found, cursor = page(rows, asked)
        return self.answer({"data": shape(found), "next_cursor": cursor, "has_more": cursor is not None})

    @property
    def by(self) -> str:
        """Who asks, for the records."""
        return f"key:{self.key.name[:40]} …{self.key.last4}"

    def idempotency_key(self, request: HttpRequest) -> str:
        key = request.META.get("HTTP_IDEMPOTENCY_KEY")
        if key is None:
            raise IdempotencyKeyMissing()
        if not _KEY.fullmatch(key):
            raise IdempotencyKeyNotValid()
        return key

    def once(
        self, request: HttpRequest, body: dict[str, Any], effect: Callable[[], object], *, status: int
    ) -> HttpResponse:
        """Have ``effect`` once for the request's Idempotency-Key; its answer is kept in the same commit."""
        answer = answers.once(
            merchant_id=self.merchant.pk,
            key=self.idempotency_key(request),
            fingerprint=answers.fingerprint("POST", request.path, body),
            now=self.asked_at,
            effect=lambda: (status, api.dump(effect())),
        )
        return mark(api.respond(answer.body, status=answer.status), replayed=answer.replayed)


def mark(response: HttpResponse, *, replayed: bool) -> HttpResponse:
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response
