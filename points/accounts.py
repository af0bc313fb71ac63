"""Points accounts as we know them: found by a keyed hash of their number, which stays sealed."""

import re
from datetime import datetime

from django.contrib.auth.hashers import check_password, make_password
from django.utils.translation import gettext_lazy as _

from config.errors import Refused
from points import bank, guessing
from points.models import PointsAccount, WrongGuess

_NUMBER = re.compile(r"[0-9]{12,19}")


class PointsAccountNotReadable(Refused):
    status = 422
    text = _("A points account has 12 to 19 digits.")
    remedy = _("Send the account's digits and nothing else.")


class SignInRefused(Refused):
    """Unknown account and wrong password are one answer."""

    status = 403
    text = _("Account and password do not belong together.")


def known(*, number: str, now: datetime) -> PointsAccount:
    """The account of that number; noted down when it is named for the first time.

    Whether there is such an account only the points system knows, and says when points are asked of it.

    :raises PointsAccountNotReadable:
    """
    if not _NUMBER.fullmatch(number):
        raise PointsAccountNotReadable(pointer="/points_account")
    found = PointsAccount.objects.filter(number_hash__in=bank.ACCOUNTS.hashes(number)).first()
    if found is not None:
        return found
    [sealed] = bank.ACCOUNTS.seal_all([number])
    made, _is_new = PointsAccount.objects.get_or_create(
        number_hash=bank.ACCOUNTS.hash(number),
        defaults={"number_sealed": sealed, "last4": number[-4:], "recorded_at": now},
    )
    return made


def sign_in(*, number: str, password: str, now: datetime) -> PointsAccount:
    """The account that a customer of the demonstration proves to be his.

    :raises SignInRefused: one text, and as slow, whatever is wrong.
    :raises guessing.TooManyGuesses:
    """
    number = number.replace(" ", "")
    # What was typed need not be an account, and is not kept in clear unless it is one.
    last4 = number[-4:] if _NUMBER.fullmatch(number) else "?"
    subject = f"account …{last4} {bank.ACCOUNTS.hash(number)[:16]}"
    guessing.check(WrongGuess.What.PASSWORD, subject, now=now)
    found = PointsAccount.objects.filter(number_hash__in=bank.ACCOUNTS.hashes(number)).first()
    if found is None or not found.password:
        make_password(password)  # takes as long as checking one does
    elif check_password(password, found.password):
        return found
    guessing.note(WrongGuess.What.PASSWORD, subject, now=now)
    raise SignInRefused()


def set_password(*, account: PointsAccount, password: str) -> None:
    """Let a customer of the demonstration sign in with this password; what is kept is its hash."""
    PointsAccount.objects.filter(pk=account.pk).update(password=make_password(password))
