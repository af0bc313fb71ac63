"""Who may see what and do what: role × model × verb.

A permission is Django's own ``<verb>_<model>``; ``view``, ``add``, ``change`` and ``delete`` have Django's meaning,
``view_<sheet>`` opens a page of figures, every other verb is a button of the back office. ``apply`` makes the groups
say exactly this table.
"""

from collections.abc import Mapping

from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import Group, Permission
from django.contrib.contenttypes.models import ContentType
from django.db import transaction
from django.utils import translation

from config import audit, tiers

SEES: Mapping[str, str] = {
    "issuing": (
        "merchant merchantkey regulation cardprogram bonustier batch batchrow event webhookendpoint webhookdelivery "
        "webhookattempt"
    ),
    "prepaid": (
        "networkaccount card retirednumber cardmove load subcard transaction entry refusedpayment run partnerfile "
        "break breakstep hold note"
    ),
    "insurance": "insurer product policy endorsement notice insurermessage",
    "claims": "interestrate insuredevent claim recovery receipt",
    "points": (
        "couponproduct exchangeratio pointsaccount exchangequote exchange coupon couponmove pointsreturn "
        "pointsmessage wrongguess repair"
    ),
}
"""What every role sees that is not bound to merchants."""

BOUND = ("merchant manager",)
"""Roles that see the rows of the merchants assigned to a person, and no others."""

SEEN_BY_BOUND: Mapping[str, str] = {
    "issuing": "merchant merchantkey cardprogram bonustier event webhookendpoint webhookdelivery webhookattempt",
    "prepaid": "networkaccount card load transaction refusedpayment",
    "insurance": "product policy",
    "claims": "insuredevent claim",
    "points": "couponproduct exchangeratio exchange coupon pointsreturn",
}
"""What they see of those: records that carry their merchant themselves, by which a long list is narrowed quickly."""

_APPROVER: Mapping[str, str] = {
    "prepaid.dayfigure": "view",
    "issuing.batch": "approve reject download",
    "prepaid.card": "note",
    "prepaid.break": "view_workbench match resolve reverse resubmit unfreeze",
    "prepaid.hold": "release",
    "points.exchangeratio": "approve reject",
    "points.exchange": "settle reject_settlement",
    "claims.insuredevent": "confirm withdraw approve_all pay_all",
    "claims.claim": "approve reject pay",
    "claims.recovery": "write_off reject_write_off",
    "insurance.policy": "view_exposure",
}

ROLES: Mapping[str, Mapping[str, str]] = {
    "clerk": {
        "issuing.batch": "upload withdraw download",
        "prepaid.card": "open top_up freeze unfreeze report_lost replace close note statement certificate",
        "prepaid.transaction": "refund reverse",
    },
    "adjuster": {
        "prepaid.dayfigure": "view",
        "prepaid.card": "freeze file_claim note statement certificate",
        "claims.insuredevent": "declare withdraw file_all assess_all",
        "claims.claim": "assess reject withdraw ask_for_papers receive_papers",
        "claims.recovery": "record propose_write_off withdraw_write_off",
        "insurance.policy": "view_exposure",
    },
    "approver": _APPROVER,
    # The same verbs, and amounts from ``SENIOR_APPROVAL_FROM`` on (``config.tiers``).
    "senior approver": {**_APPROVER, "config.act": tiers.PERMISSION.removesuffix("_act")},
    "partner desk": {
        "prepaid.dayfigure": "view",
        "issuing.merchantkey": "revoke",
        "prepaid.card": "note",
        "issuing.webhookendpoint": "ping pause resume",
        "issuing.webhookdelivery": "resend",
        "insurance.policy": "ask_again view_exposure",
        "insurance.endorsement": "ask_again",
        "insurance.notice": "ask_again",
        "points.exchangeratio": "propose withdraw",
        "points.exchange": "ask_again propose_settlement settle reject_settlement withdraw_settlement",
        "points.pointsreturn": "ask_again",
        "points.coupon": "read_code freeze unfreeze extend reissue void",
        "points.repair": "ask_again",
        "prepaid.run": "run_day run_bordereau run_statement compare_kept",
        "prepaid.partnerfile": "download",
        "prepaid.break": (
            "view_workbench take match carry_over resolve reopen ask_again reverse resubmit freeze unfreeze"
        ),
        "prepaid.hold": "hold",
    },
    "merchant manager": {
        "prepaid.card": "freeze",
        "issuing.webhookendpoint": "ping pause resume",
        "issuing.webhookdelivery": "resend",
    },
    "auditor": {
        "prepaid.break": "view_workbench",
        "prepaid.dayfigure": "view",
        "insurance.policy": "view_exposure",
        "auth.user": "view",
        "auth.group": "view",
        "config.act": "view",
    },
    # Sets the terms and the people; money moves through the others. The demonstration's administrator is a superuser.
    "administrator": {
        "prepaid.dayfigure": "view",
        "issuing.merchant": "add change make_key make_test_twin",
        "issuing.merchantmanager": "view add change delete",
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
    return {
        role: _seen(SEEN_BY_BOUND if role in BOUND else SEES)
        | {
            f"{label.split('.')[0]}.{verb}_{label.split('.')[1]}"
            for label, verbs in models.items()
            for verb in verbs.split()
        }
        for role, models in ROLES.items()
    }


def _seen(pages: Mapping[str, str]) -> set[str]:
    return {f"{app}.view_{model}" for app, models in pages.items() for model in models.split()}


DOCUMENT = settings.BASE_DIR / "docs" / "roles.md"

_HEAD = """# Who may see what and do what

Written by `manage.py roles --write` from `config/roles.py`; a test holds it against that table and the running site.
✓ sees the page; beside it stand the verbs, each a button. A superuser may do everything but decide what they prepared.
A *merchant manager* sees only the rows of the merchants assigned to them; a foreign row is answered as one that is
not there.
A *senior approver* decides about amounts from `SENIOR_APPROVAL_FROM` on (docs/operating.md), an *approver* below it.
The inbox of approvals is open to whoever sees one of the kinds in it, and shows of them what that person sees.
"""


def as_markdown() -> str:
    """The table as a page: role × page × verb."""
    held: dict[tuple[str, str], dict[str, list[str]]] = {}
    for role, names in table().items():
        for name in sorted(names):
            app, codename = name.split(".")
            verb, _underscore, model = codename.rpartition("_")
            held.setdefault((app, model), {}).setdefault(role, []).append(verb)
    lines = [_HEAD, f"| page | {' | '.join(ROLES)} |", "|---" * (len(ROLES) + 1) + "|"]
    with translation.override("en"):
        for (app, model), by_role in sorted(held.items()):
            name = apps.get_model(app, model)._meta.verbose_name
            lines.append(f"| {app}: {name} | {' | '.join(_cell(by_role.get(role, [])) for role in ROLES)} |")
    return "\n".join([*lines, ""])


def _cell(verbs: list[str]) -> str:
    sees = ["✓"] if "view" in verbs else []
    return " ".join(sees + [", ".join(verb.replace("_", " ") for verb in verbs if verb != "view")]).strip()


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
