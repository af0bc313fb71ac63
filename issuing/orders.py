"""What may be sold to whom: the rules that an order meets as a whole, BEFORE it is split into sub-cards.

Splitting must never be a way around identity, cash and amount rules (单用途商业预付卡管理办法, arts. 15–18), so they
are tested here, on the total, by everyone who opens or tops up a card: batch, API and staff.
"""

import re
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from django.utils.translation import gettext_lazy as _

from config.errors import Refused
from config.money import MOST_FEN, AmountNotPositive, AmountTooLarge, format_yuan
from issuing.models import CardProgram, Kind, Merchant, PaymentMethod, Regulation
from issuing.split import TooManySubCards

_PHONE = re.compile(r"1[3-9][0-9]{9}")
_ID_NUMBER = re.compile(r"[0-9]{17}[0-9X]")
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECK = "10X98765432"
# Made once: an enumeration makes its list of values anew whenever it is asked, and a batch asks for every row.
_PAYMENT_METHODS = frozenset(PaymentMethod.values)
LONGEST_NAME = 60


class MerchantFailed(Refused):
    text = _("The merchant has failed: it issues and tops up no cards.")
    remedy = _("Issue nothing more; holders are compensated through claims.")


class ProgramWithdrawn(Refused):
    text = _("The card program is withdrawn.")
    remedy = _("Choose a program that is active.")


class WrongPrice(Refused):
    status = 422
    text = _("A card of this program costs exactly %(price)s.")
    remedy = _("Send exactly the program's price.")


class AmountBelowOneCard(Refused):
    status = 422
    text = _("This amount buys nothing on this program.")
    remedy = _("Raise the amount, or choose another program.")


class HolderNameNotReadable(Refused):
    status = 422
    text = _("The holder's name is missing, too long or has characters that no name has.")
    remedy = _("Send the name as it stands on the identity document.")


class PhoneNotReadable(Refused):
    status = 422
    text = _("The phone number is not a mobile number of eleven digits.")
    remedy = _("Send eleven digits, without a country code.")


class IdNumberNotReadable(Refused):
    status = 422
    text = _("The identity number does not check.")
    remedy = _("Check the eighteen characters of the identity number.")


class IdentityNeeded(Refused):
    status = 422
    text = _("From %(threshold)s at once on, the buyer of an unnamed card gives name and phone.")
    remedy = _("Send the buyer's name and phone.")


class HolderNeeded(Refused):
    status = 422
    text = _("A named card needs its holder's name and phone.")
    remedy = _("Send the holder's name and phone.")


class PaymentMethodUnknown(Refused):
    status = 422
    text = _("No such way of paying.")
    remedy = _("Choose one of those in the document.")


class CashNotAllowed(Refused):
    status = 422
    text = _("From %(threshold)s at once on, cash is not allowed: use a bank transfer.")
    remedy = _("Have it paid by bank transfer.")


class PaidInFuture(Refused):
    status = 422
    text = _("The moment of payment has not come yet.")
    remedy = _("Send the moment at which it was paid.")


class Holder(NamedTuple):
    """Who holds the card; all empty for the buyer of an unnamed card below the threshold."""

    name: str = ""
    phone: str = ""
    id_number: str = ""
    is_organisation: bool = False


class Order(NamedTuple):
    """A purchase as it was paid: ``amount`` in fen, ``reference`` the merchant's own."""

    program: CardProgram
    amount: int
    holder: Holder
    reference: str
    payment_method: str
    paid_at: datetime


def local_date(merchant: Merchant, moment: datetime) -> date:
    """The business date of a moment: the calendar day in the merchant's time zone."""
    return moment.astimezone(ZoneInfo(merchant.time_zone)).date()


def regulation_for(merchant: Merchant, on_date: date) -> Regulation:
    """What is in force on that day in the merchant's city, otherwise in the whole country.

    :raises LookupError: nothing is recorded that far back; a migration seeds the national measures of 2012.
    """
    return in_force(Regulation.objects.filter(region__in=[merchant.city, ""]), region=merchant.city, on_date=on_date)


def in_force(regulations: Iterable[Regulation], *, region: str, on_date: date) -> Regulation:
    """The same out of rows at hand: a city's own rule beats the nation's, a later one an earlier.

    :raises LookupError:
    """
    rows = [row for row in regulations if row.region in (region, "") and row.valid_from_date <= on_date]
    if not rows:
        raise LookupError(f"no regulation is recorded for {on_date}")
    return max(rows, key=lambda row: (row.region, row.valid_from_date))


def expires_on(program: CardProgram, regulation: Regulation, on_date: date) -> date | None:
    """The last day an unnamed card bought that day is good for: its term, at least three years. Named ones never
    expire (arts. 19–20); the balance of an expired card stays owed.
    """
    if program.named:
        return None
    return max(on_date + timedelta(days=program.term_days), _years_later(on_date, regulation.unnamed_term_years))


def _years_later(on_date: date, years: int) -> date:
    try:
        return on_date.replace(year=on_date.year + years)
    except ValueError:
        # Bought on 29 February: the term is at least so many years, so it runs into March.
        return date(on_date.year + years, 3, 1)


def limit(program: CardProgram, regulation: Regulation) -> int:
    """The limit of one sub-card in fen: the program's, never above the regulated one."""
    return min(program.card_limit, regulation.named_card_limit if program.named else regulation.unnamed_card_limit)


def check_amount(program: CardProgram, amount: int) -> None:
    """Refuse an amount that a program does not sell.

    :raises MerchantFailed, ProgramWithdrawn, AmountNotPositive, AmountTooLarge, WrongPrice:
    """
    if program.merchant.state != Merchant.State.ACTIVE:
        raise MerchantFailed()
    if program.state != CardProgram.State.ACTIVE:
        raise ProgramWithdrawn()
    if amount <= 0:
        raise AmountNotPositive()
    if amount > MOST_FEN:
        raise AmountTooLarge()
    if program.kind in (Kind.TIMES, Kind.ENTITLEMENT) and amount != program.price:
        raise WrongPrice(price=format_yuan(program.price or 0))


def check(order: Order, *, regulation: Regulation, now: datetime) -> None:
    """Refuse an order that may not be sold; the total is tested, whatever it will be split into.

    :raises MerchantFailed, ProgramWithdrawn, AmountNotPositive, AmountTooLarge, WrongPrice, TooManySubCards,
        PaidInFuture, PaymentMethodUnknown, HolderNeeded, IdentityNeeded, HolderNameNotReadable, PhoneNotReadable,
        IdNumberNotReadable, CashNotAllowed:
    """
    program, amount, holder = order.program, order.amount, order.holder
    check_amount(program, amount)
    # Splitting refuses this too; said here, a batch says it of the line before anybody approves it.
    needed = -(-amount // limit(program, regulation))
    if needed > program.max_sub_cards:
        raise TooManySubCards(needed=needed, most=program.max_sub_cards)
    if order.paid_at > now:
        raise PaidInFuture()
    if order.payment_method not in _PAYMENT_METHODS:
        raise PaymentMethodUnknown()
    _check_holder(program, amount, holder, regulation)
    threshold = (
        regulation.cash_refused_from_organisation if holder.is_organisation else regulation.cash_refused_from_individual
    )
    if order.payment_method == PaymentMethod.CASH and amount >= threshold:
        raise CashNotAllowed(threshold=format_yuan(threshold))


def _check_holder(program: CardProgram, amount: int, holder: Holder, regulation: Regulation) -> None:
    if not (holder.name and holder.phone):
        if program.named:
            raise HolderNeeded()
        if amount >= regulation.unnamed_identity_from:
            raise IdentityNeeded(threshold=format_yuan(regulation.unnamed_identity_from))
    if holder.name and not _is_name(holder.name):
        raise HolderNameNotReadable()
    if holder.phone and not _PHONE.fullmatch(holder.phone):
        raise PhoneNotReadable()
    if holder.id_number and not _is_id_number(holder.id_number):
        raise IdNumberNotReadable()


def _is_name(name: str) -> bool:
    # A cell that a spreadsheet would run is no name, and neither is one with control characters.
    return (
        len(name) <= LONGEST_NAME
        and name == name.strip()
        and name.isprintable()
        and name[0] not in "=+-@"
        and any(character.isalpha() for character in name)
    )


def _is_id_number(text: str) -> bool:
    """GB 11643: 17 digits and an ISO 7064 MOD 11-2 check character."""
    if not _ID_NUMBER.fullmatch(text):
        return False
    total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, text, strict=False))
    return text[17] == _ID_CHECK[total % 11]
