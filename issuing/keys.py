"""Keys of the merchant API: made, found and revoked. A key is shown once; what is kept is its keyed hash."""

import hmac
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.db.models.functions import Coalesce, Least
from django.utils.translation import gettext_lazy as _

from config import prepared
from config.addresses import Address, is_within
from config.errors import Refused
from issuing.models import Merchant, MerchantKey

SCOPES = (
    "cards:read", "cards:write", "payments:write", "claims:write", "exchanges:write", "coupons:write", "webhooks:write",
)  # fmt: skip
"""What a key may be allowed. Whoever may read may read everything of its merchant."""

_KEY = re.compile(r"sk_(test|live)_[0-9a-f]{48}")
# When a key was last used matters to the day; a write on every request would cost as much as the request.
_USE_RECORDED_EVERY = timedelta(minutes=1)
OVERLAP = timedelta(days=7)
"""How long a key that was replaced goes on, unless told otherwise: time to bring the new one to every till."""


class KeyNotAccepted(Refused):
    """Missing, unknown, expired, revoked and brought from a wrong address are one answer."""

    status = 401
    text = _("Send a valid API key: “Authorization: Bearer sk_test_…”.")
    remedy = _("Check that the key is whole, has not ended, and is used from where it was made for.")


class ScopeMissing(Refused):
    status = 403
    text = _("This API key lacks the scope %(scope)s.")
    remedy = _("Use a key that has the scope, or have one made.")


class ScopeUnknown(Refused):
    status = 422
    text = _("There is no scope %(scope)s.")


class ExpiryPassed(Refused):
    status = 422
    text = _("The key would have expired already.")


class KeyReplaced(Refused):
    text = _("This key was replaced already. Rotate the one that replaces it.")


class KeyEnded(Refused):
    text = _("This key has ended. Make a new one.")


def make(
    *,
    merchant: Merchant,
    name: str,
    now: datetime,
    scopes: Sequence[str] = SCOPES,
    expires_at: datetime | None = None,
    allowed_from: Sequence[str] = (),
    made_by: Any = None,
    replaces: MerchantKey | None = None,
) -> tuple[MerchantKey, str]:
    """Make a key and return it with its text, which nobody can read again.

    It begins with ``sk_test_`` if the merchant is a test twin, with ``sk_live_`` otherwise. ``allowed_from`` are the
    networks it may be used from, none for any.

    :raises ScopeUnknown, ExpiryPassed:
    """
    for scope in scopes:
        if scope not in SCOPES:
            raise ScopeUnknown(scope=scope)
    if expires_at is not None and expires_at <= now:
        raise ExpiryPassed()
    text = f"sk_{'test' if merchant.is_test else 'live'}_{secrets.token_hex(24)}"
    key = MerchantKey.objects.create(
        merchant=merchant,
        name=name,
        key_hash=_hash(text),
        last4=text[-4:],
        scopes=list(scopes),
        made_by=made_by,
        expires_at=expires_at,
        allowed_from=list(allowed_from),
        replaces=replaces,
    )
    return key, text


def rotate(
    *, key: MerchantKey, now: datetime, overlap: timedelta = OVERLAP, made_by: Any = None
) -> tuple[MerchantKey, str]:
    """Make the key's successor, which may do the same from the same places, and let the old one end after ``overlap``.

    Meanwhile both are good. An expiry that the old key had is not taken over: it was that key's own.

    :raises KeyReplaced: it has a successor. :raises KeyEnded: it is no longer good.
    """
    ends_at = now + overlap
    try:
        with transaction.atomic():
            # Only what is still good has something to hand on; it ends, and never later than it would have.
            good = MerchantKey.objects.filter(_good(now), pk=key.pk)
            if not good.update(expires_at=Least(Coalesce("expires_at", ends_at), ends_at)):
                raise KeyEnded()
            made = make(
                merchant=key.merchant,
                name=key.name,
                now=now,
                scopes=key.scopes,
                allowed_from=key.allowed_from,
                made_by=made_by,
                replaces=key,
            )
    except IntegrityError as error:
        raise KeyReplaced() from error
    key.refresh_from_db(fields=["expires_at"])
    return made


def _good(now: datetime) -> Q:
    return Q(revoked_at=None) & (Q(expires_at=None) | Q(expires_at__gt=now))


def find(text: str, *, now: datetime, address: Address | None = None) -> MerchantKey:
    """The key of that text with its merchant, if it may be used now and from there. One query.

    :raises KeyNotAccepted:
    """
    if not _KEY.fullmatch(text):
        raise KeyNotAccepted()
    found = prepared.row(_FIND, [_hash(text)])
    if found is None:
        raise KeyNotAccepted()
    key = prepared.read(MerchantKey, found[:_WIDTH])
    key.merchant = prepared.read(Merchant, found[_WIDTH:])
    if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= now):
        raise KeyNotAccepted()
    if key.allowed_from and not is_within(address, key.allowed_from):
        raise KeyNotAccepted()
    return key


_WIDTH = len(MerchantKey._meta.concrete_fields)
_FIND = f"""SELECT {prepared.columns(MerchantKey)}, {prepared.columns(Merchant)}
FROM issuing_merchantkey JOIN issuing_merchant ON issuing_merchant.id = issuing_merchantkey.merchant_id
WHERE issuing_merchantkey.key_hash = %s"""  # noqa: S608  our own tables' columns


def is_use_worth_noting(key: MerchantKey, *, now: datetime) -> bool:
    return key.last_used_at is None or key.last_used_at < now - _USE_RECORDED_EVERY


def note_use(key: MerchantKey, *, now: datetime) -> None:
    """Write down that the key was used, once a minute however often: of many requests at once, one writes."""
    seldom = Q(last_used_at=None) | Q(last_used_at__lt=now - _USE_RECORDED_EVERY)
    MerchantKey.objects.filter(seldom, pk=key.pk).update(last_used_at=now)


def revoke(*, key: MerchantKey, now: datetime) -> bool:
    """End a key at once. False if it was revoked before: its moment stays."""
    revoked = bool(MerchantKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=now))
    key.refresh_from_db(fields=["revoked_at"])
    return revoked


def _hash(text: str) -> str:
    return hmac.digest(settings.API_KEY_PEPPER.encode(), text.encode(), "sha256").hex()
