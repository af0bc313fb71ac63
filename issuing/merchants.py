"""What happens to an issuer as a whole."""

from datetime import datetime, timedelta
from math import ceil
from typing import Any, TypeVar

from django.db.models import F, Model
from django.utils.translation import gettext_lazy as _

from config.errors import Refused
from issuing.models import TEST_SUFFIX, BonusTier, CardProgram, Merchant


class AlreadyATestMerchant(Refused):
    text = _("This is a test merchant itself.")


def fail(merchant: Merchant, now: datetime) -> None:
    """Let the merchant issue and top up nothing more: an insured event was confirmed.

    :raises IllegalMove: it failed before.
    """
    merchant.move(Merchant.State.FAILED, failed_at=now)


class NotATestMerchant(Refused):
    text = _("This is done with test merchants only.")


class ClockMoveUnclear(Refused):
    status = 422
    text = _("Name either advance_seconds or to.")
    remedy = _("Send one of the two.")


class ClockGoesBack(Refused):
    status = 422
    text = _("The test clock only goes forward: it is %(now)s.")
    remedy = _("Name a later moment.")


class ClockTooFarAhead(Refused):
    status = 422
    text = _("The test clock is at most %(years)s years ahead.")
    remedy = _("Move it less far.")


MOST_YEARS_AHEAD = 20
_MOST_AHEAD = MOST_YEARS_AHEAD * 366 * 86_400


def advance_clock(merchant: Merchant, *, seconds: int) -> None:
    """Move a test merchant's clock ahead, beside whoever else does so at the same moment.

    :raises NotATestMerchant, ClockTooFarAhead:
    """
    if not merchant.is_test:
        raise NotATestMerchant()
    ours = Merchant.objects.for_tests().filter(pk=merchant.pk, test_clock_ahead__lte=_MOST_AHEAD - seconds)
    if not ours.update(test_clock_ahead=F("test_clock_ahead") + seconds):
        raise ClockTooFarAhead(years=MOST_YEARS_AHEAD)
    merchant.refresh_from_db(fields=["test_clock_ahead"])


def set_clock(merchant: Merchant, *, to: datetime, now: datetime) -> None:
    """Move a test merchant's clock ahead to a moment; it goes on from there.

    :raises NotATestMerchant, ClockGoesBack, ClockTooFarAhead:
    """
    if not merchant.is_test:
        raise NotATestMerchant()
    ahead = ceil((to - now) / timedelta(seconds=1))
    if ahead > _MOST_AHEAD:
        raise ClockTooFarAhead(pointer="/to", years=MOST_YEARS_AHEAD)
    ours = Merchant.objects.for_tests().filter(pk=merchant.pk, test_clock_ahead__lte=ahead)
    moved = ahead >= 0 and ours.update(test_clock_ahead=ahead)
    merchant.refresh_from_db(fields=["test_clock_ahead"])
    if not moved:
        raise ClockGoesBack(pointer="/to", now=merchant.moment(now).isoformat(timespec="seconds"))


def recover(merchant: Merchant) -> None:
    """Let a test merchant that failed in a drill issue again.

    :raises NotATestMerchant: who failed in earnest has failed for ever.
    :raises IllegalMove: it has not failed.
    """
    if not merchant.is_test:
        raise NotATestMerchant()
    merchant.move(Merchant.State.ACTIVE, failed_at=None)


def make_test_twin(merchant: Merchant) -> Merchant:
    """The merchant's test twin with a copy of each of its card programs; made once, later only what is new is copied.

    What other rooms keep of a merchant's terms they copy themselves: see ``prepaid.processing.make_test_twin``.

    :raises AlreadyATestMerchant:
    """
    if merchant.is_test:
        raise AlreadyATestMerchant()
    twin, _made = Merchant.objects.get_or_create(
        test_of=merchant,
        defaults={
            "code": merchant.code + TEST_SUFFIX,
            "name": merchant.name[:93] + " (test)",
            "sector": merchant.sector,
            "city": merchant.city,
            "time_zone": merchant.time_zone,
        },
    )
    there = set(twin.programs.values_list("code", flat=True))
    for program in merchant.programs.filter(state=CardProgram.State.ACTIVE).prefetch_related("tiers"):
        if program.code + TEST_SUFFIX in there:
            continue
        tiers = list(program.tiers.all())
        copy = copied(program, merchant=twin, code=program.code + TEST_SUFFIX)
        BonusTier.objects.bulk_create(
            BonusTier(program=copy, from_amount=tier.from_amount, gift=tier.gift) for tier in tiers
        )
    return twin


Row = TypeVar("Row", bound=Model)


def copied(row: Row, **other: Any) -> Row:
    """Record a row that is like another one but for its identity and what is said to be ``other``."""
    kept = (field for field in row._meta.concrete_fields if not field.primary_key and field.name not in other)
    facts = {field.attname: getattr(row, field.attname) for field in kept}
    made: Row = type(row)._base_manager.create(**{**facts, **other})
    return made
