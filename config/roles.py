"""Who may see what and do what: role × model × verb.

A permission is Django's own ``<verb>_<model>``; ``view``, ``add``, ``change`` and ``delete`` have Django's meaning,
``view_<sheet>`` opens a page of figures, ``view_<column>`` shows what lists and records else leave out, every other
verb is a button of the back office. ``apply`` makes the groups say exactly this table.
"""

from collections.abc import Mapping

from django.apps import apps
from django.contrib.auth.models import Group, Permission
from django.contrib.contenttypes.models import ContentType
from django.db import transaction

from config import audit

SEES: Mapping[str, str] = {
    "issuing": (
        "merchant merchantkey regulation cardprogram bonustier batch batchrow event webhookendpoint webhookdelivery "
        "webhookattempt"
    ),
    "prepaid": (
        "networkaccount card retirednumber cardmove load subcard transaction entry refusedpayment run partnerfile "
        "break hold"
    ),
    "insurance": "insurer product policy endorsement notice insurermessage",
    "claims": "interestrate insuredevent claim recovery receipt",
    "points": (
        "couponproduct exchangeratio pointsaccount exchangequote exchange coupon couponmove pointsreturn "
        "pointsmessage wrongguess repair"
    ),
    # Of these everybody sees their own.
    "config": "export bulk",
}
"""What every role sees."""

ROLES: Mapping[str, Mapping[str, str]] = {
    "clerk": {
        "issuing.batch": "upload reject download",
        "prepaid.card": "open top_up freeze unfreeze report_lost replace close",
        "prepaid.transaction": "refund reverse",
        "prepaid.networkaccount": "view_phone",
    },
    "adjuster": {
        "prepaid.card": "freeze file_claim",
        "prepaid.networkaccount": "view_phone",
        "claims.insuredevent": "declare withdraw file_all assess_all",
        "claims.claim": "assess reject ask_for_papers receive_papers",
        "claims.recovery": "record propose_write_off",
        "insurance.policy": "view_exposure",
    },
    "approver": {
        "issuing.batch": "approve reject download",
        "prepaid.networkaccount": "view_phone",
        "prepaid.break": "resolve reverse resubmit unfreeze",
        "prepaid.hold": "release",
        "points.exchangeratio": "approve reject",
        "points.exchange": "settle",
        "claims.insuredevent": "confirm withdraw approve_all pay_all",
        "claims.claim": "approve reject pay",
        "claims.recovery": "write_off",
        "insurance.policy": "view_exposure",
    },
    "partner desk": {
        "issuing.merchantkey": "revoke",
        "issuing.webhookendpoint": "ping pause resume",
        "issuing.webhookdelivery": "resend",
        "insurance.policy": "ask_again view_exposure",
        "insurance.endorsement": "ask_again",
        "insurance.notice": "ask_again",
        "points.exchangeratio": "propose",
        "points.exchange": "ask_again propose_settlement settle",
        "points.pointsreturn": "ask_again",
        "points.coupon": "read_code freeze unfreeze extend reissue void",
        "points.repair": "ask_again",
        "prepaid.run": "run_day run_bordereau run_statement compare_kept",
        "prepaid.partnerfile": "download",
        "prepaid.break": "take resolve reopen ask_again reverse resubmit freeze unfreeze",
        "prepaid.hold": "hold",
    },
    "auditor": {
        "prepaid.networkaccount": "view_phone",
        "insurance.policy": "view_exposure",
        "auth.user": "view",
        "auth.group": "view",
        "config.act": "view",
    },
    # Sets the terms and the people; money moves through the others. The demonstration's administrator is a superuser.
    "administrator": {
        "issuing.merchant": "add change make_key make_test_twin",
        "issuing.merchantkey": "rotate revoke",
        "issuing.regulation": "add change",
        "issuing.cardprogram": "add change withdraw offer_again",
        "issuing.bonustier": "add change delete",
        "insurance.policy": "view_exposure",
        "insurance.insurer": "add change",
        "insurance.product": "add change",
        "claims.interestrate": "add change",
        "points.couponproduct": "add change restock withdraw offer_again",
        "auth.user": "view add change take_factor_away",
        "auth.group": "view",
        "config.act": "view",
    },
}


def table() -> dict[str, set[str]]:
    """For each role the full names of its permissions, such as ``prepaid.freeze_card``."""
    seen = {f"{app}.view_{model}" for app, models in SEES.items() for model in models.split()}
    return {role: seen | _names(models) | OWN for role, models in ROLES.items()}


def _names(models: Mapping[str, str]) -> set[str]:
    return {
        f"{label.split('.')[0]}.{verb}_{label.split('.')[1]}"
        for label, verbs in models.items()
        for verb in verbs.split()
    }


OWN = _names({"config.export": "download cancel", "config.bulk": "again download cancel"})
"""What every role may do with what it ordered itself: nothing of the business moves by it."""


@transaction.atomic
def apply() -> None:
    """Make every role's group hold exactly what the table says; people keep their roles."""
    changed = []
    for role, names in table().items():
        group, _made = Group.objects.get_or_create(name=role)
        before = sorted(group.permissions.values_list("codename", flat=True))
        group.permissions.set([_permission(name) for name in names])
        after = sorted(group.permissions.values_list("codename", flat=True))
        if before != after:
            changed.append((group, {"may": before}, {"may": after}))
    for group, was, is_now in changed:
        audit.record(None, "set_role", row=group, before=was, after=is_now)


def _permission(name: str) -> Permission:
    app, codename = name.split(".")
    model = apps.get_model(app, codename.rsplit("_", 1)[1])
    words = f"Can {codename.replace('_', ' ')}"
    permission, _made = Permission.objects.get_or_create(
        content_type=ContentType.objects.get_for_model(model), codename=codename, defaults={"name": words}
    )
    return permission
