"""Up to which amount somebody decides as the second person: the one place where that rule stands.

The verbs of the business ask here, in the transaction in which they decide; pages only show beforehand what they say.
"""

from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from config.errors import Refused
from config.models import Act
from config.money import format_yuan

PERMISSION = "decide_large_act"
"""What a senior approver holds besides the verbs of an approver (``config.roles``)."""


class AboveTier(Refused):
    status = 403
    text = _("%(amount)s: from %(limit)s on a senior approver decides.")


def limit(by: User) -> int | None:
    """From how many fen on this person does not decide any more; None: they decide about any amount.

    Read once for each time the person is read. Whether they can sign in is not asked: what stands for the operator at
    the machine cannot (``let_decide``), and a job goes on that somebody left to the clock.
    """
    if not hasattr(by, "_decides_all"):
        held = Permission.objects.filter(
            Q(user=by) | Q(group__user=by), content_type__app_label="config", codename=PERMISSION
        )
        by._decides_all = by.is_superuser or held.exists()  # type: ignore[attr-defined]
    return None if by._decides_all else settings.SENIOR_APPROVAL_FROM  # type: ignore[attr-defined]


def is_large(amount: int | None) -> bool:
    """Whether an amount in fen, of either sign, is a senior approver's to decide."""
    return abs(amount or 0) >= settings.SENIOR_APPROVAL_FROM


def check(*, amount: int | None, by: User) -> None:
    """Let ``by`` decide about an amount in fen, of either sign; None is none.

    :raises AboveTier: it takes a senior approver.
    """
    if is_large(amount) and limit(by) is not None:
        raise AboveTier(amount=format_yuan(amount or 0), limit=format_yuan(settings.SENIOR_APPROVAL_FROM))


def let_decide(by: User) -> User:
    """Let a user that stands for the operator at the machine decide about any amount; returns it."""
    permission, _made = Permission.objects.get_or_create(
        content_type=ContentType.objects.get_for_model(Act),
        codename=PERMISSION,
        defaults={"name": "Can decide large act"},
    )
    by.user_permissions.add(permission)
    return by
