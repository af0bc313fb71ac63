"""The back office's grammar: how a record is listed, shown and acted on. The only module that knows the theme.

Every model is registered through ``House`` or, where staff set terms, ``Terms``. A ``House`` record is never
added, changed or deleted by hand, by nobody and under no permission: it is acted on by verbs, each a button that makes
one call into the business and shows its refusal in the business's words.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, partial
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple
from urllib.parse import urlencode

from django import forms
from django.contrib import admin, messages
from django.contrib.admin import ShowFacets
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import PAGE_VAR
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import Group, User
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.paginator import Paginator
from django.db import models, transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path, reverse
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin, TabularInline
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.views import ChangeList
from unfold.widgets import (
    BASE_INPUT_CLASSES,
    CHECKBOX_CLASSES,
    SELECT_CLASSES,
    TEXTAREA_CLASSES,
    UnfoldAdminFileFieldWidget,
)

from config import audit, roles, signing_in, tiers
from config.errors import Refused
from config.models import Act
from config.money import AmountNotReadable, format_yuan, parse_yuan

NOTHING = "–"

# Cells -----------------------------------------------------------------------------------------------------------

TONES = {
    state: tone
    for tone, states in {
        "good": "DELIVERED ACTIVE ACCEPTED PAID ISSUED DONE CONFIRMED RESOLVED RECOVERED REDEEMED",
        "wait": "STAGING STAGED PENDING FILED ASSESSED APPROVED RUNNING DECLARED UNKNOWN",
        "bad": "PAUSED UNRESOLVED FAILED REJECTED DECLINED LOST FROZEN CLAIMED OPEN",
        "over": "DISABLED CLOSED COMPENSATED CANCELLED WITHDRAWN ENDED WRITTEN_OFF REVERSED RETURNED VOID EXPIRED "
        "REISSUED",
    }.items()
    for state in states.split()
}
"""What the colour of a state says: all is well, somebody or something is waited for, trouble, history."""


def figure(text: object) -> SafeString:
    """A figure in a column of figures: to the right, all digits of one width."""
    return format_html('<span class="figure">{}</span>', text)


def yuan(fen: int | None) -> SafeString:
    """An amount in fen as ``¥12,345.67``."""
    return figure(NOTHING if fen is None else format_yuan(fen))


def number(value: int | None) -> SafeString:
    return figure(NOTHING if value is None else f"{value:,}")


def moment(at: datetime | None) -> SafeString:
    """A moment in the reader's time zone."""
    if at is None:
        return SafeString(NOTHING)
    local = timezone.localtime(at)
    return format_html('<time datetime="{}">{}</time>', local.isoformat(), f"{local:%Y-%m-%d %H:%M:%S}")


def badge(state: str, label: object) -> SafeString:
    return format_html('<span class="badge badge-{}">{}</span>', TONES.get(state, "wait"), label)


def state_of(row: Any) -> SafeString:
    """The badge of a record's state."""
    return badge(row.state, row.get_state_display())


def yes_no(value: bool) -> Any:
    return _("yes") if value else _("no")


def address(row: Model) -> str | None:
    """Where a record is shown, or None if it has no page."""
    try:
        return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])
    except NoReverseMatch:
        return None


def link(row: Model | None, text: object = None) -> SafeString:
    """A record's name, leading to its page."""
    if row is None:
        return SafeString(NOTHING)
    where = address(row)
    return format_html('<a class="to" href="{}">{}</a>', where, text or row) if where else format_html("{}", row)


def listing(model: type[Model], **filters: object) -> str:
    """The address of a model's list, narrowed by filters as the list writes them."""
    where = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    return f"{where}?{urlencode(filters)}" if filters else where


def plain_data(value: object) -> SafeString:
    """What a machine wrote, readable and escaped."""
    return format_html('<pre class="data">{}</pre>', json.dumps(value, ensure_ascii=False, indent=2, default=str))


def column(label: object, *, figures: bool = False) -> Callable[[Any], Any]:
    """Names what a method of a ``House`` shows of a record, in a list or among its facts."""

    def name(method: Any) -> Any:
        method.short_description = label
        method.is_figure = figures
        return method

    return name


# Panels and verbs ------------------------------------------------------------------------------------------------


class Panel(NamedTuple):
    """A table on a record's page. A head or cell made by ``figure`` stands to the right; ``bar`` is (done, all)."""

    title: object
    head: Sequence[object] = ()
    rows: Iterable[Sequence[object]] = ()
    empty: object = ""
    note: object = ""
    more: tuple[object, str] | None = None
    bar: tuple[int, int] | None = None
    kind: str = ""


Facts = Sequence[tuple[object, object]]


@dataclass(frozen=True)
class Verb:
    """A button: what staff may do to a record, or (on a list) without one.

    ``run`` makes ONE call into the business and returns the words for what was done, the record that was made, or a
    page. It runs in one transaction with its row of the audit.
    Who may press it holds the permission ``<name>_<model>``; where ``barred`` gives a reason it is shown,
    disabled, with the reason. ``preview`` says beforehand what will happen; with ``quotes`` it is worked out from
    the filled-in form and shown before the same form is sent for good.
    """

    name: str
    label: object
    run: Callable[[HttpRequest, Any, dict[str, Any]], object]
    form: type[forms.Form] | None = None
    states: Collection[str] | None = None
    shown: Callable[[Any], bool] | None = None
    barred: Callable[[HttpRequest, Any], object] | None = None
    # For what commits by itself as it goes, or speaks to a partner: it is written down before it begins, not with it.
    apart: bool = False
    preview: Callable[[HttpRequest, Any, dict[str, Any]], Facts] | None = None
    quotes: bool = False
    warning: object = ""
    tone: str = ""
    words: object = ""
    # What is decided about, in fen: from some amount on it takes a senior approver. The verb itself refuses too.
    amount: Callable[[Any], int | None] | None = None

    def offered(self, row: Any) -> bool:
        return (self.states is None or row.state in self.states) and (self.shown is None or self.shown(row))


@dataclass(frozen=True)
class Sheet:
    """A page of figures over all records of a kind, in the menu and on their list; nothing is pressed there.

    Who may open it holds the permission ``view_<name>_<model>``.
    """

    name: str
    label: object
    icon: str
    panels: Callable[[HttpRequest], Iterable[Panel]]
    words: object = ""


@dataclass(frozen=True)
class Waiting:
    """What of a kind of record waits for a second person: listed in the inbox (``config.inbox``).

    ``verbs`` decide about it, the one that lets it through first: their forms show ``compare`` (what, as it is, as it
    will be) and carry a digest of it and of the record, and are refused when either has changed since. So whatever
    moves by itself belongs into a verb's preview. ``asked_by`` and ``merchant`` lead to what their names say.
    """

    rows: Callable[[QuerySet[Any]], QuerySet[Any]]
    since: str
    asked_by: str
    verbs: Sequence[str]
    compare: Callable[[Any], Iterable[tuple[object, object, object]]]
    merchant: str = "merchant"
    name: Callable[[Any], object] = str


class ChangedSinceShown(Refused):
    text = _("This was changed after it was shown to you. Look at it again: nothing was decided.")


@dataclass(frozen=True)
class Counted:
    """Records that wait for somebody: the first page counts them by the same rule by which the list shows them."""

    name: str
    label: object
    rule: Callable[[datetime], models.Q]


@dataclass(frozen=True)
class Leaf:
    """A page of its own about one record, for whoever may see the record; nothing is pressed there."""

    name: str
    label: object
    panels: Callable[[HttpRequest, Any], Iterable[Panel]]
    words: object = ""


class Button(NamedTuple):
    label: object
    tone: str
    address: str
    barred: object


class Yuan(forms.CharField):
    """An amount in yuan on the form, in fen in the program."""

    def __init__(self, *, zero: bool = False, **rest: Any) -> None:
        self.zero = zero
        # What a model field passes on that is about whole numbers.
        for name in ("min_value", "max_value"):
            rest.pop(name, None)
        super().__init__(**rest)

    def prepare_value(self, value: Any) -> Any:
        return f"{value // 100}.{value % 100:02d}" if isinstance(value, int) else value

    def to_python(self, value: Any) -> Any:
        if isinstance(value, int):
            return value
        text = super().to_python(value)
        if not text:
            return None
        if self.zero and text in ("0", "0.0", "0.00"):
            return 0
        try:
            return parse_yuan(text.removeprefix("¥").replace(",", ""))
        except Refused as refused:
            raise ValidationError(str(refused)) from None
        except ValueError:
            raise ValidationError(str(AmountNotReadable(text=text[:40]))) from None

    def has_changed(self, initial: Any, data: Any) -> bool:
        return super().has_changed(self.prepare_value(initial), data)


def shown_once(request: HttpRequest, row: Model, *, title: object, secret: str, note: object) -> TemplateResponse:
    """A page with something that is kept nowhere in the clear: not in a message, a cookie or a cache."""
    context = {
        **admin.site.each_context(request),
        "title": title,
        "opts": row._meta,
        "original": row,
        "note": note,
        "facts": [(title, format_html('<span class="secret">{}</span>', secret))],
    }
    return TemplateResponse(request, "admin/record.html", context, headers={"Cache-Control": "no-store"})


HISTORY = 200
"""How many acts a record's own page of them shows; the audit's list has them all."""


MOST_HITS = 20
"""How many records of a kind the search of the whole house lists."""

MOST_KEYS = 500


def changes(act: Act) -> SafeString:
    """What an act changed, a line for each field: before → after."""
    names = list(dict.fromkeys([*act.before, *act.after]))
    return format_html_join(
        "",
        '<div class="change"><span class="muted">{}</span> {} → {}</div>',
        ((_field_name(act, name), _said(act.before.get(name)), _said(act.after.get(name))) for name in names),
    )


def _field_name(act: Act, name: str) -> object:
    """What a field is called on the pages."""
    model = next((model for model in admin.site._registry if model._meta.label_lower == act.kind), None)
    fields = model._meta.get_fields() if model is not None else ()
    found = next((one for one in fields if name in (one.name, getattr(one, "attname", ""))), None)
    return getattr(found, "verbose_name", name)


def why(act: Act) -> object:
    """The reason: what a person wrote as it stands, what the sign-in page wrote in the reader's language."""
    return gettext(act.reason) if act.reason and act.verb in WORDS else act.reason


def _said(value: object) -> object:
    return NOTHING if value is None or value == "" else str(value)


WORDS = {
    "add": _("added"),
    "change": _("changed"),
    "delete": _("deleted"),
    "sign_in": _("signed in"),
    "sign_in_failed": _("failed to sign in"),
    "sign_out": _("signed out"),
    "session_ended": _("session ended"),
    "locked_out": _("locked out"),
    "set_up_factor": _("set up a second factor"),
    "make_recovery_codes": _("made new recovery codes"),
    "change_own_password": _("changed the own password"),
    "set_role": _("set what a role may do"),
}
"""What acts are called that are no verb of a record."""


def what(act: Act) -> object:
    """An act in the words of its button."""
    house = next((kept for model, kept in admin.site._registry.items() if model._meta.label_lower == act.kind), None)
    labels = {verb.name: verb.label for verb in (*getattr(house, "verbs", ()), *getattr(house, "list_verbs", ()))}
    label = labels.get(act.verb) or WORDS.get(act.verb) or act.verb
    if act.outcome == Act.Outcome.REFUSED and act.verb not in ("sign_in_failed", "locked_out"):
        return format_html("{} {}", label, badge("REJECTED", act.get_outcome_display()))
    return label


class Reason(forms.Form):
    """Why: kept with what is done."""

    reason = forms.CharField(label=_("reason"), max_length=200)


def dress(form: forms.Form) -> forms.Form:
    """Give a form of our own the theme's looks, and the keyboard its first field."""
    for at, (name, field) in enumerate(form.fields.items()):
        field.label = capfirst(str(field.label or name))
        widget = field.widget
        if not at:
            widget.attrs["autofocus"] = True
        if isinstance(widget, forms.FileInput):
            # The theme's script expects its own markup around a file.
            field.widget = UnfoldAdminFileFieldWidget(attrs=widget.attrs)
            continue
        classes = BASE_INPUT_CLASSES
        if isinstance(widget, forms.CheckboxInput):
            classes = CHECKBOX_CLASSES
        elif isinstance(widget, forms.Select):
            classes = SELECT_CLASSES
        elif isinstance(widget, forms.Textarea):
            classes = TEXTAREA_CLASSES
        widget.attrs.setdefault("class", " ".join(classes))
    return form


def by_staff(request: HttpRequest) -> str:
    """Who did it, as the business writes it down."""
    return f"staff:{request.user.get_username()}"[:60]


# Whose rows ------------------------------------------------------------------------------------------------------


def merchants_of(request: HttpRequest) -> list[Any] | None:
    """The merchants whose rows are all that this person sees; None: they see everybody's.

    Whoever has one role that is bound to merchants is bound in all of them. Asked once in a request.
    """
    if not hasattr(request, "merchants"):
        user: Any = request.user
        is_bound = not user.is_superuser and user.groups.filter(name__in=roles.BOUND).exists()
        request.merchants = list(user.managed.values_list("merchant", flat=True)) if is_bound else None  # type: ignore[attr-defined]
    return request.merchants  # type: ignore[attr-defined]


def shown_to(request: HttpRequest, rows: QuerySet[Any]) -> QuerySet[Any]:
    """Of records that somebody is offered to choose from those whose own page they may open."""
    mine = merchants_of(request)
    house = admin.site._registry.get(rows.model)
    if mine is None or not isinstance(house, House):
        return rows
    return rows.filter(**{f"{house.merchant}__in": mine}) if house.merchant else rows.none()


def may_look_at(request: HttpRequest, model: type[Model]) -> bool:
    """Whether somebody may open the pages of a kind of record: what they may not is shown on no other page either."""
    return admin.site._registry[model].has_view_permission(request)


class Related(admin.RelatedFieldListFilter):
    def field_choices(self, field: Any, request: HttpRequest, model_admin: Any) -> list[tuple[Any, Any]]:
        rows = shown_to(request, field.related_model._default_manager.all())
        return [(row.pk, str(row)) for row in rows.order_by(*self.field_admin_ordering(field, request, model_admin))]


# Lists -----------------------------------------------------------------------------------------------------------


class Pages(Paginator):
    """Pages that count no further than ``MOST`` rows: nobody turns that many, and counting a million takes long."""

    MOST = 5_000
    template_name = "admin/pages.html"

    @cached_property
    def _counted(self) -> int:
        rows: Any = self.object_list
        return rows.order_by().values("pk")[: self.MOST + 1].count()

    @cached_property
    def count(self) -> int:
        return min(self._counted, self.MOST)

    @property
    def is_cut(self) -> bool:
        return self._counted > self.MOST


class Rows(ChangeList):
    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        if not (self.has_active_filters or self.query):
            self.full_result_count = self.result_count


class WhatIsCounted(admin.SimpleListFilter):
    """What the first page counts, as a filter of the list it leads to."""

    title = _("what waits")
    parameter_name = "waits"

    def __init__(self, request: HttpRequest, params: dict[str, Any], model: type[Model], model_admin: Any) -> None:
        self.counted: Sequence[Counted] = model_admin.counted
        super().__init__(request, params, model, model_admin)

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(wait.name, capfirst(str(wait.label))) for wait in self.counted]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        wait = next((one for one in self.counted if one.name == self.value()), None)
        return queryset.filter(wait.rule(timezone.now())) if wait else None


class Audited(ModelAdmin):
    """A page of which everything that staff do on it is written into the audit, in the transaction that does it.

    Verbs are written down by ``House.do``. What Django's own forms do arrives here, where Django would keep its own
    log: which says neither what stood there before nor from where it was done, and which anybody may change.
    """

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        row = super().get_object(request, object_id, from_field)
        if row is not None and request.method == "POST":
            self.remember(row)
        return row

    def remember(self, row: Any) -> None:
        """Keep what stands in the database, before a form is saved."""
        row._before = self.facts_of(row)

    def facts_of(self, row: Any) -> dict[str, object]:
        """All that a form may change of a record: its fields, its relations to many, and the lines on its page."""
        found = audit.facts(row)
        for many in row._meta.many_to_many:
            found[many.name] = sorted(str(one) for one in getattr(row, many.name).all())
        for inline in self.inlines:
            for relation in inline.model._meta.fields:
                if relation.is_relation and relation.related_model is type(row):
                    lines = inline.model._base_manager.filter(**{relation.name: row}).order_by("pk")
                    found[inline.model._meta.model_name] = [audit.facts(line) for line in lines]
        return found

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> None:
        audit.record(request, "add", row=obj, after=self.facts_of(obj))

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> None:
        before = getattr(obj, "_before", {})
        audit.record(request, "change", row=obj, before=before, after=self.facts_of(obj))

    def log_deletions(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        for row in queryset:
            audit.record(request, "delete", row=row, before=self.facts_of(row))

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """What staff did to this record; from where is for those who may read the audit as a whole."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        row = self.get_object(request, unquote(object_id))
        if row is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        acts = audit.about(row)[:HISTORY]
        may_read_all = request.user.has_perm("config.view_act")
        panel = Panel(
            _("what staff did here"),
            (_("when"), _("who"), _("what"), _("reason"), _("what changed")),
            [
                (
                    link(act, moment(act.recorded_at)) if may_read_all else moment(act.recorded_at),
                    act.who,
                    what(act),
                    why(act),
                    changes(act),
                )
                for act in acts
            ],
            _("Nothing yet."),
            more=(_("all"), listing(Act, kind=row._meta.label_lower, object_id=row.pk)) if may_read_all else None,
        )
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": row,
            "title": str(row),
            "facts": (),
            "panels": [panel],
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/record.html", context)


class House(Audited):
    """A record that only verbs change.

    ``money`` names the fields in fen, ``facts`` what a record's page shows first, ``links`` the relations by which
    other pages narrow the list, ``heavy`` the fields a list does without, ``joined`` the relations it reads beside
    those it shows.
    """

    list_per_page = 50
    list_max_show_all = 50
    show_full_result_count = False
    show_facets = ShowFacets.NEVER
    paginator = Pages
    actions = None
    ordering: ClassVar[Sequence[str]] = ("-pk",)
    # A click on a column head must not sort a million rows; the order is that of the primary key.
    sortable_by: ClassVar[Sequence[str] | None] = ()
    list_filter_submit = False
    search_help_text: object = ""

    money: ClassVar[Collection[str]] = ()
    facts: ClassVar[Sequence[str]] = ()
    links: ClassVar[Collection[str]] = ()
    heavy: ClassVar[Sequence[str]] = ()
    joined: ClassVar[Sequence[str]] = ()
    verbs: ClassVar[Sequence[Verb]] = ()
    list_verbs: ClassVar[Sequence[Verb]] = ()
    sheets: ClassVar[Sequence[Sheet]] = ()
    leaves: ClassVar[Sequence[Leaf]] = ()
    counted: ClassVar[Sequence[Counted]] = ()
    empty: ClassVar[object] = ""
    """What to do when the list is empty."""
    waiting: ClassVar[Waiting | None] = None

    merchant: ClassVar[str | None]
    """The path from a record to its merchant, by which rows are shown to whoever is bound to merchants; None: they see
    no record of this kind. Every page says which (tests/admin/test_scope.py)."""

    def __init__(self, model: type[Model], site: admin.AdminSite) -> None:
        super().__init__(model, site)
        self._fields = {field.name: field for field in model._meta.fields}
        self._columns = [self._column(name, first=not at) for at, name in enumerate(self.list_display)]
        self.list_select_related = [
            *self.joined,
            *(name for name in self.list_display if isinstance(self._fields.get(name), models.ForeignKey)),
        ]
        if self.search_help_text:
            # The search box is there when there are search fields; which ones it is that ``find`` says.
            self.search_fields = ("pk",)

    # Who may do what

    def _is_shut(self, request: HttpRequest) -> bool:
        return self.merchant is None and merchants_of(request) is not None

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return not self._is_shut(request) and super().has_view_permission(request, obj)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def may(self, request: HttpRequest, verb: Verb) -> bool:
        return request.user.has_perm(f"{self.opts.app_label}.{verb.name}_{self.opts.model_name}")

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        """Only what is a filter on the page, or a link between pages: other columns are not to be guessed at."""
        filters = {
            one if isinstance(one, str) else one[0] if isinstance(one, tuple) else one.parameter_name
            for one in (*([WhatIsCounted] if self.counted else []), *self.list_filter)
        }
        # Never further than the relation itself: beyond it lie the hidden columns of other records.
        ends = ("", "__exact", "__id__exact", "__isnull")
        days = {name for name in filters if isinstance(self._fields.get(str(name)), models.DateField)}
        return lookup in {f"{name}{end}" for name in (*filters, *self.links) for end in ends} | {
            f"{name}{end}" for name in days for end in ("__gte", "__lt")
        }

    # How a record's fields are shown

    def cell(self, row: Any, name: str, *, linked: bool = True) -> Any:
        """One field, or one method of this class, of a record as the page shows it."""
        field = self._fields.get(name)
        if field is None:
            return getattr(self, name)(row)
        value = getattr(row, name)
        if name in self.money:
            return yuan(value)
        if value is None or value == "":
            return NOTHING
        if name == "state":
            return state_of(row)
        if isinstance(field, models.ForeignKey):
            return link(value) if linked and field.related_model is not User else value
        if getattr(field, "choices", None):
            return getattr(row, f"get_{name}_display")()
        if isinstance(field, models.DateTimeField):
            return moment(value)
        if isinstance(field, models.DateField):
            return value.isoformat()
        if isinstance(field, models.BooleanField):
            return yes_no(value)
        if isinstance(field, models.IntegerField) and not field.primary_key:
            return number(value)
        if isinstance(field, models.JSONField):
            return plain_data(value)
        return value

    def label(self, name: str) -> object:
        field = self._fields.get(name)
        return getattr(self, name).short_description if field is None else field.verbose_name

    def _is_figure(self, name: str) -> bool:
        return name in self.money or (name not in self._fields and getattr(getattr(self, name), "is_figure", False))

    def _column(self, name: str, *, first: bool) -> Callable[[Any], Any]:
        column = partial(self.cell, name=name, linked=not first)
        field = self._fields.get(name)
        column.__name__ = f"figure_{name}" if self._is_figure(name) else name  # type: ignore[attr-defined]
        column.short_description = self.label(name)  # type: ignore[attr-defined]
        if self.sortable_by is None and field is not None:
            column.admin_order_field = name  # type: ignore[attr-defined]
        return column

    def get_list_display(self, request: HttpRequest) -> Sequence[Any]:
        return self._columns

    def get_list_filter(self, request: HttpRequest) -> Sequence[Any]:
        """A filter offers no record that its own list would not show."""
        return [
            *([WhatIsCounted] if self.counted else []),
            *(
                (one, Related) if isinstance(self._fields.get(str(one)), models.ForeignKey) else one
                for one in self.list_filter
            ),
        ]

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **rest: Any) -> Any:
        rows: Any = rest.get("queryset")
        rest["queryset"] = shown_to(request, db_field.related_model._default_manager.all() if rows is None else rows)
        return super().formfield_for_foreignkey(db_field, request, **rest)

    def get_changelist(self, request: HttpRequest, **rest: Any) -> type[ChangeList]:
        return Rows

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        text = search_term.strip()
        return (queryset.filter(pk__in=self.find(text)[:500]) if text else queryset), False

    def find(self, text: str) -> list[Any]:
        """Primary keys of the records that somebody means by ``text``, by exact and indexed look-ups only."""
        return []

    def meant_by(self, request: HttpRequest, text: str) -> Iterable[Any] | None:
        """Primary keys of what somebody means who searches the whole house; None: these are not searched for there.

        What is typed there is sent in a form and never stands in an address, so secrets are looked up here and not in
        ``find``.

        :raises Refused: somebody is guessing.
        """
        return None

    def hits(self, request: HttpRequest, text: str) -> list[Any]:
        """Those of them that this person may see, at most ``MOST_HITS``."""
        keys = self.meant_by(request, text) if self.has_view_permission(request) else None
        if keys is None:
            return []
        rows = self.get_queryset(request).select_related(*self.list_select_related).defer(*self.heavy)
        return list(rows.filter(pk__in=list(keys)[:MOST_KEYS]).order_by("-pk")[: MOST_HITS + 1])

    def hits_panel(self, hits: Sequence[Any]) -> Panel:
        """The hits as the list shows them."""
        first, *others = self.list_display
        rows = [
            [link(row, self.cell(row, first, linked=False)), *(self.cell(row, name, linked=False) for name in others)]
            for row in hits[:MOST_HITS]
        ]
        more = _("There are more: add to what you search for.") if len(hits) > MOST_HITS else ""
        heads = [figure(self.label(name)) if self._is_figure(name) else self.label(name) for name in self.list_display]
        return Panel(self.opts.verbose_name_plural, heads, rows, note=more)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if any("\x00" in value for value in request.GET.values()) or not _is_page(request.GET.get(PAGE_VAR, "1")):
            return HttpResponseRedirect(request.path)
        buttons = [
            Button(verb.label, verb.tone, self._verb_url(verb), None)
            for verb in self.list_verbs
            if self.may(request, verb)
        ]
        buttons += [Button(sheet.label, "", self.sheet_url(sheet), None) for sheet in self.open_sheets(request)]
        context = {"buttons": buttons, **(extra_context or {})}
        return super().changelist_view(request, context)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        queryset = super().get_queryset(request)
        if (mine := merchants_of(request)) is not None:
            queryset = queryset.filter(**{f"{self.merchant}__in": mine}) if self.merchant else queryset.none()
        is_list = request.resolver_match is not None and str(request.resolver_match.url_name).endswith("_changelist")
        return queryset.defer(*self.heavy) if is_list and self.heavy else queryset

    def rows_counted(self, request: HttpRequest, counted: Counted, now: datetime) -> QuerySet[Any]:
        return self.get_queryset(request).filter(counted.rule(now))

    # A record's page

    def about(self, request: HttpRequest, row: Any) -> Facts:
        """What a record's page says first."""
        return [(capfirst(str(self.label(name))), self.cell(row, name)) for name in self.facts or self._all_fields()]

    def _all_fields(self) -> list[str]:
        hidden = models.BinaryField
        return [field.name for field in self.opts.fields if not isinstance(field, hidden) and not field.primary_key]

    def panels(self, request: HttpRequest, row: Any) -> Iterable[Panel]:
        """The tables below it."""
        return ()

    def note(self, request: HttpRequest, row: Any) -> object:
        """What to know before anything else, if there is something."""
        return ""

    def is_moving(self, row: Any) -> bool:
        """Whether the page should look again by itself, because work on the record is under way."""
        return False

    def record_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        shown = set(self.facts or self._all_fields())
        joined = [field.name for field in self.opts.fields if field.is_relation and field.name in shown]
        return self.get_queryset(request).select_related(*joined) if joined else self.get_queryset(request)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        if "\x00" in object_id:  # psycopg cannot even ask
            return None
        try:
            row = self.record_queryset(request).filter(pk=self.opts.pk.to_python(object_id)).first()
        except (ValidationError, ValueError, OverflowError):
            return None
        if row is not None and request.method == "POST":
            self.remember(row)
        return row

    def buttons(self, request: HttpRequest, row: Any, *, names: Collection[str] | None = None) -> list[Button]:
        return [
            Button(verb.label, verb.tone, self._verb_url(verb, row), self._barred(request, verb, row))
            for verb in self.verbs
            if (names is None or verb.name in names) and verb.offered(row) and self.may(request, verb)
        ]

    def _barred(self, request: HttpRequest, verb: Verb, row: Any) -> object:
        """Why this person does not do this to this record, if so."""
        if verb.barred and (reason := verb.barred(request, row)):
            return reason
        try:
            tiers.check(amount=verb.amount(row) if verb.amount else None, by=request.user)  # type: ignore[arg-type]
        except tiers.AboveTier as refused:
            return str(refused)
        return None

    def verb(self, name: str) -> Verb:
        return next(verb for verb in self.verbs if verb.name == name)

    def _decides(self, verb: Verb) -> bool:
        return self.waiting is not None and verb.name in self.waiting.verbs

    def side_by_side(self, row: Any) -> list[Panel]:
        """What waits for a second person: as it is, and as it will be."""
        if self.waiting is None or not self.verb(self.waiting.verbs[0]).offered(row):
            return []
        rows = [(capfirst(str(label)), before, after) for label, before, after in self.waiting.compare(row)]
        return [Panel(_("what is asked for"), ("", _("as it is"), _("as it will be")), rows, kind="compare")]

    def _seen(self, row: Any) -> str:
        """What somebody is shown of a record that they decide about, as one word."""
        columns = {field.attname: getattr(row, field.attname) for field in self.opts.concrete_fields}
        shown = [[str(cell) for cell in line] for panel in self.side_by_side(row) for line in panel.rows]
        return salted_hmac("what was shown", json.dumps([columns, shown], default=str)).hexdigest()

    def _page(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        leaves = [Button(leaf.label, "", self.leaf_url(leaf, row), None) for leaf in self.leaves]
        return {
            "buttons": [*self.buttons(request, row), *leaves],
            "panels": [*self.side_by_side(row), *self.panels(request, row)],
            "note": self.note(request, row),
            "is_moving": self.is_moving(row),
        }

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        if not self.has_view_permission(request):
            raise PermissionDenied
        row = self.get_object(request, unquote(object_id))
        if row is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        if request.method not in ("GET", "HEAD"):
            raise PermissionDenied
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": row,
            "title": str(row),
            "facts": self.about(request, row),
            "history": reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_history", args=[row.pk]),
            **self._page(request, row),
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/record.html", context)

    # Verbs

    def get_urls(self) -> list[URLPattern]:
        name = f"{self.opts.app_label}_{self.opts.model_name}"
        wrap = self.admin_site.admin_view
        own = [
            path(f"do/{verb.name}/", wrap(partial(self.do, verb=verb)), name=f"{name}_{verb.name}")
            for verb in self.list_verbs
        ]
        own += [
            path(f"<path:object_id>/do/{verb.name}/", wrap(partial(self.do, verb=verb)), name=f"{name}_{verb.name}")
            for verb in self.verbs
        ]
        own += [
            path(f"{sheet.name}/", wrap(partial(self.show, sheet=sheet)), name=f"{name}_{sheet.name}")
            for sheet in self.sheets
        ]
        own += [
            path(f"<path:object_id>/{leaf.name}/", wrap(partial(self.turn_to, leaf=leaf)), name=f"{name}_{leaf.name}")
            for leaf in self.leaves
        ]
        return own + super().get_urls()

    # Leaves

    def leaf_url(self, leaf: Leaf, row: Any) -> str:
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_{leaf.name}", args=[row.pk])

    def turn_to(self, request: HttpRequest, object_id: str, *, leaf: Leaf) -> HttpResponseBase:
        row = self.get_object(request, unquote(object_id))
        if row is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        if not self.has_view_permission(request, row):
            raise PermissionDenied
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": row,
            "title": capfirst(str(leaf.label)),
            "words": leaf.words,
            "back": address(row),
            "panels": list(leaf.panels(request, row)),
        }
        return TemplateResponse(request, "admin/record.html", context)

    # Sheets

    def open_sheets(self, request: HttpRequest) -> list[Sheet]:
        """The sheets that this person may look at."""
        model = self.opts.model_name
        if merchants_of(request) is not None:
            # Its figures are those of all merchants together.
            return []
        return [one for one in self.sheets if request.user.has_perm(f"{self.opts.app_label}.view_{one.name}_{model}")]

    def sheet_url(self, sheet: Sheet) -> str:
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_{sheet.name}")

    def show(self, request: HttpRequest, *, sheet: Sheet) -> HttpResponseBase:
        if sheet not in self.open_sheets(request):
            raise PermissionDenied
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": capfirst(str(sheet.label)),
            "words": sheet.words,
            "panels": list(sheet.panels(request)),
        }
        return TemplateResponse(request, "admin/record.html", context)

    def _verb_url(self, verb: Verb, row: Any = None) -> str:
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_{verb.name}"
        return reverse(name, args=[] if row is None else [row.pk])

    def do(self, request: HttpRequest, object_id: str | None = None, *, verb: Verb) -> HttpResponseBase:
        """Ask for what a verb needs and show what it will do; on POST, do it once and say so."""
        if not (self.may(request, verb) and self.has_view_permission(request)):
            raise PermissionDenied
        row = None
        back = listing(self.model)
        if object_id is not None:
            row = self.get_object(request, unquote(object_id))
            if row is None:
                return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
            back = address(row) or back
            if request.GET.get("then") == "inbox":
                back = reverse("inbox")
            if not verb.offered(row):
                self._tried(request, verb, row, "NotOffered")
                messages.warning(
                    request, _("This is no longer possible: somebody was first. Look at the record again.")
                )
                return HttpResponseRedirect(back)
            if reason := self._barred(request, verb, row):
                self._tried(request, verb, row, "Barred")
                messages.error(request, str(reason))
                return HttpResponseRedirect(back)
        form = self._verb_form(request, verb, row)
        preview: Facts = ()
        is_sure = False
        try:
            if request.method == "POST" and form.is_valid():
                # What was shown is what is done: a form that was changed after its quote is quoted again.
                if not verb.quotes or constant_time_compare(request.POST.get("sure", ""), _digest(request)):
                    return self._done(request, verb, row, form, back)
                is_sure = True
            if verb.preview and (is_sure or not verb.quotes):
                preview = verb.preview(request, row, form.cleaned_data if is_sure else {})
        except ChangedSinceShown as refused:
            # Shown again as it is now, or that it waits no longer.
            messages.error(request, str(refused))
            return HttpResponseRedirect(request.get_full_path())
        except Refused as refused:
            is_sure = False
            messages.error(request, str(refused))
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": row,
            "title": verb.label,
            "verb": verb,
            "form": form,
            "preview": preview,
            **({"panels": self.side_by_side(row), "seen": self._seen(row)} if row and self._decides(verb) else {}),
            "is_sure": is_sure or not verb.quotes,
            "sure": _digest(request),
            "back": back,
        }
        return TemplateResponse(request, "admin/verb.html", context)

    def _tried(self, request: HttpRequest, verb: Verb, row: Any, why: str) -> None:
        """Somebody sent a form that their page does not offer: above all, to decide what they prepared themselves."""
        if request.method == "POST":
            audit.record(request, verb.name, row=row, after={"refused": why}, outcome=Act.Outcome.REFUSED)

    def _verb_form(self, request: HttpRequest, verb: Verb, row: Any) -> forms.Form:
        make = verb.form or forms.Form
        row_argument = {"row": row} if getattr(make, "takes_row", False) else {}
        if request.method == "POST":
            form = make(request.POST, request.FILES, **row_argument)
        else:
            form = make(initial=request.GET.dict(), **row_argument)
        for field in form.fields.values():
            if isinstance(field, forms.ModelChoiceField):
                offered: Any = field.queryset
                field.queryset = shown_to(request, offered)
        return dress(form)

    def _done(self, request: HttpRequest, verb: Verb, row: Any, form: forms.Form, back: str) -> HttpResponseBase:
        asked = dict(form.cleaned_data)
        why = str(asked.pop("reason", "") or "")
        deed: dict[str, Any] = {"row": row, "kind": self.opts.label_lower, "asked": asked, "reason": why}
        try:
            if verb.apart:
                audit.record(request, verb.name, **deed)
                result = verb.run(request, row, form.cleaned_data)
            else:
                with transaction.atomic():
                    if row is not None and self._decides(verb):
                        self._hold(request, row)
                    result = verb.run(request, row, form.cleaned_data)
                    self._write_down(request, verb, deed, result)
        except Refused as refused:
            # What it did is rolled back; that it was tried is not.
            audit.record(request, verb.name, **deed, after={"refused": refused.code}, outcome=Act.Outcome.REFUSED)
            raise
        made = result if isinstance(result, Model) else None
        if isinstance(result, HttpResponseBase):
            return result
        if made is not None:
            # Its page says what became of it, which need not be what was hoped for.
            return HttpResponseRedirect(address(made) or back)
        messages.success(request, str(result))
        return HttpResponseRedirect(back)

    def _hold(self, request: HttpRequest, row: Any) -> None:
        """Keep the record as it is from here on, if it is what the form showed.

        :raises ChangedSinceShown: or the form says nothing of what it showed.
        """
        row.hold()
        if not constant_time_compare(request.POST.get("seen", ""), self._seen(row)):
            raise ChangedSinceShown()
        self.remember(row)

    def _write_down(self, request: HttpRequest, verb: Verb, deed: dict[str, Any], result: object) -> None:
        row = deed["row"]
        made = result if isinstance(result, Model) else None
        if row is None and made is not None:
            audit.record(request, verb.name, **{**deed, "row": made}, after=audit.facts(made))
            return
        before = row._before if row is not None else {}
        after = self.facts_of(row) if row is not None else {}
        audit.record(request, verb.name, **deed, made=made, before=before, after=after)


def _digest(request: HttpRequest) -> str:
    """What stands on a form that was sent, as one word."""
    sent = sorted(
        (name, values) for name, values in request.POST.lists() if name not in ("csrfmiddlewaretoken", "sure", "seen")
    )
    return salted_hmac("what was quoted", json.dumps([request.path, sent])).hexdigest()


def _is_page(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 7


class YuanOnForms:
    """Amounts are typed in yuan: those that ``money`` names."""

    money: ClassVar[Collection[str]] = ()
    yuan_or_zero: ClassVar[Collection[str]] = ()

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **rest: Any) -> Any:
        if db_field.name in self.money:
            widget = forms.TextInput(
                attrs={"class": " ".join([*BASE_INPUT_CLASSES, "max-w-2xl"]), "inputmode": "decimal"}
            )
            return db_field.formfield(
                form_class=Yuan, widget=widget, zero=db_field.name in self.yuan_or_zero, help_text=_("in yuan")
            )
        return super().formfield_for_dbfield(db_field, request, **rest)  # type: ignore[misc]


class Terms(YuanOnForms, House):
    """A record that staff with the permission write on a form: who issues, what, on which terms."""

    sortable_by = None

    def locked(self, row: Any) -> object:
        """Why this record can no longer be changed, if so."""
        return ""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return not self._is_shut(request) and ModelAdmin.has_add_permission(self, request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        may = not self._is_shut(request) and ModelAdmin.has_change_permission(self, request, obj)
        return may and not (obj and self.locked(obj))

    def note(self, request: HttpRequest, row: Any) -> object:
        return self.locked(row)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        row = self.get_object(request, unquote(object_id))
        if row is None or not self.has_change_permission(request, row):
            return super().change_view(request, object_id, form_url, extra_context)
        context = {**self._page(request, row), **(extra_context or {})}
        return ModelAdmin.change_view(self, request, object_id, form_url, context)

    change_form_template = "admin/terms.html"


class Lines(YuanOnForms, TabularInline):
    """Records that are edited on the page of another one."""

    extra = 0


# The frame -------------------------------------------------------------------------------------------------------

MENU: Sequence[tuple[object, Sequence[tuple[str, str]]]] = (
    (_("Cards"), (
        ("prepaid.card", "credit_card"),
        ("prepaid.transaction", "receipt_long"),
        ("prepaid.refusedpayment", "block"),
        ("prepaid.networkaccount", "person"),
    )),
    (_("Issuing"), (
        ("issuing.batch", "inventory_2"),
        ("issuing.merchant", "storefront"),
        ("issuing.cardprogram", "style"),
        ("issuing.merchantkey", "key"),
        ("issuing.event", "bolt"),
        ("issuing.webhookendpoint", "webhook"),
        ("issuing.webhookdelivery", "outgoing_mail"),
        ("issuing.regulation", "gavel"),
    )),
    (_("Insurance"), (
        ("insurance.policy", "shield"),
        ("insurance.endorsement", "post_add"),
        ("insurance.notice", "campaign"),
        ("insurance.insurermessage", "mail"),
        ("insurance.product", "sell"),
        ("insurance.insurer", "account_balance"),
    )),
    (_("Claims"), (
        ("claims.insuredevent", "emergency_home"),
        ("claims.claim", "fact_check"),
        ("claims.recovery", "undo"),
        ("claims.interestrate", "percent"),
    )),
    (_("Points"), (
        ("points.exchange", "swap_horiz"),
        ("points.coupon", "confirmation_number"),
        ("points.couponproduct", "redeem"),
        ("points.exchangeratio", "calculate"),
        ("points.pointsreturn", "undo"),
        ("points.pointsaccount", "loyalty"),
        ("points.pointsmessage", "mail"),
        ("points.wrongguess", "policy_alert"),
    )),
    (_("Reconciliation"), (
        ("prepaid.run", "balance"),
        ("prepaid.partnerfile", "draft"),
        ("prepaid.break", "rule"),
        ("points.repair", "build"),
        ("prepaid.hold", "front_hand"),
        ("prepaid.dayfigure", "monitoring"),
    )),
    (_("Staff"), (
        ("auth.user", "group"),
        ("auth.group", "badge"),
        ("config.act", "history"),
    )),
)  # fmt: skip


def kinds_that_wait(request: HttpRequest) -> list[House]:
    """The kinds of records of which this person sees what waits for a second one."""
    houses = (house for house in admin.site._registry.values() if isinstance(house, House) and house.waiting)
    return [house for house in houses if house.has_view_permission(request)]


def menu(request: HttpRequest) -> list[dict[str, Any]]:
    """The side bar: what this person may look at, by subject."""
    groups: list[dict[str, Any]] = []
    if kinds_that_wait(request):
        groups.append({"items": [{"title": _("Approvals"), "icon": "inbox", "link": reverse("inbox")}]})
    for title, items in MENU:
        shown = []
        for label, icon in items:
            app, name = label.split(".")
            model_admin = next(
                (kept for model, kept in admin.site._registry.items() if model._meta.label_lower == label), None
            )
            if model_admin is None or not model_admin.has_view_permission(request):
                continue
            shown.append(
                {
                    "title": capfirst(str(model_admin.opts.verbose_name_plural)),
                    "icon": icon,
                    "link": reverse(f"admin:{app}_{name}_changelist"),
                }
            )
            if isinstance(model_admin, House):
                shown += [
                    {"title": capfirst(str(sheet.label)), "icon": sheet.icon, "link": model_admin.sheet_url(sheet)}
                    for sheet in model_admin.open_sheets(request)
                ]
        if shown:
            groups.append({"title": title, "items": shown})
    return groups


admin.site.unregister(User)
admin.site.unregister(Group)


class FactorTaken(Refused):
    status = 403
    text = _("Nobody takes away their own second factor: an administrator does, or move it on your own page.")


def _not_one_of_ones_own(request: HttpRequest, row: User) -> object:
    if row.pk == request.user.pk:
        return FactorTaken.text
    if _did_lately(request, row, "change"):
        return _("You changed this person or their password within a day: a second person takes the factor away.")
    return None


def _did_lately(request: HttpRequest, row: User, *verbs: str) -> bool:
    """Whether one person would hold both halves of another one's identity."""
    since = timezone.now() - timedelta(days=1)
    return (
        audit.about(row)
        .filter(who=request.user.get_username(), verb__in=verbs, outcome="DONE", recorded_at__gt=since)
        .filter(models.Q(after__has_key="password") | ~models.Q(verb="change"))
        .exists()
    )


def _take_factor_away(request: HttpRequest, row: User, data: dict[str, Any]) -> object:
    signing_in.take_away(row)
    return _("Taken away, and signed out everywhere. A new one is set up at the next sign-in.")


@admin.register(User)
class StaffAdmin(UserAdmin, Terms):  # type: ignore[misc]  # Django's page of a user, on our own ground
    """People and their roles. Only a superuser makes another one, or opens what no role opens."""

    merchant = None

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "first_name", "last_name", "email", "is_active", "second_factor", "last_login")
    list_filter = ("is_active", "groups")
    facts = ("username", "first_name", "last_name", "email", "is_active", "roles", "second_factor", "last_login")
    search_help_text = _("username")  # type: ignore[misc]
    ordering = ("username",)
    verbs = (
        Verb("take_factor_away", _("take away the second factor"), _take_factor_away, form=Reason,
             shown=lambda row: row.has_factor, barred=_not_one_of_ones_own, tone="bad",
             warning=_("For a lost telephone. Make sure who is asking: until a new one is set up, the password alone "
                       "lets in.")),
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).annotate(has_factor=signing_in.HAS_FACTOR)

    @column(_("second factor"))
    def second_factor(self, row: Any) -> Any:
        return yes_no(row.has_factor)

    @column(_("roles"))
    def roles(self, row: User) -> Any:
        return ", ".join(sorted(group.name for group in row.groups.all())) or NOTHING

    def find(self, text: str) -> list[Any]:
        return list(User.objects.filter(username__iexact=text).values_list("pk", flat=True))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        own = () if request.user.is_superuser else ("is_superuser", "user_permissions")
        # The audit knows people by their name.
        named = ("username",) if obj is not None else ()
        return (*super().get_readonly_fields(request, obj), *own, *named)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Whoever sets a superuser's password is one.
        is_above = obj is not None and obj.is_superuser and not request.user.is_superuser
        return not is_above and super().has_change_permission(request, obj)

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        row = self.get_object(request, unquote(id))
        if row is not None and row.pk != request.user.pk and _did_lately(request, row, "take_factor_away"):
            messages.error(
                request, _("You took this person's second factor away within a day: a second person sets the password.")
            )
            return HttpResponseRedirect(address(row) or listing(User))
        with transaction.atomic():
            return super().user_change_password(request, id, form_url)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Their name stands beside what they did; whoever leaves is made inactive.
        return False


@admin.register(Group)
class RoleAdmin(House):
    """Roles stand in ``config/roles.py``: what is shown here is what that table says."""

    merchant = None

    list_display = ("name",)
    facts = ("name",)

    def panels(self, request: HttpRequest, row: Group) -> Iterable[Panel]:
        held: dict[Any, list[str]] = {}
        for permission in row.permissions.select_related("content_type").order_by("content_type", "codename"):
            held.setdefault(permission.content_type, []).append(permission.codename.rsplit("_", 1)[0])
        yield Panel(
            _("may"), (_("record"), _("verbs")), [(kind.name, ", ".join(verbs)) for kind, verbs in held.items()]
        )


class _Chosen(admin.SimpleListFilter):
    """One of a column's values. What there may be is known without reading the table, which only grows."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        return queryset.filter(**{str(self.parameter_name): self.value()}) if self.value() else None


class ByWho(_Chosen):
    title = _("who")
    parameter_name = "who"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(name, name) for name in User.objects.order_by("username").values_list("username", flat=True)[:500]]


class ByVerb(_Chosen):
    title = _("what")
    parameter_name = "verb"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        words: dict[str, object] = {
            verb.name: verb.label
            for house in admin.site._registry.values()
            for verb in (*getattr(house, "verbs", ()), *getattr(house, "list_verbs", ()))
        }
        return sorted(((name, capfirst(str(label))) for name, label in {**words, **WORDS}.items()), key=itemgetter(1))


class ByKind(_Chosen):
    title = _("record")
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        kinds = [(model._meta.label_lower, capfirst(str(model._meta.verbose_name))) for model in admin.site._registry]
        return sorted(kinds, key=itemgetter(1))


@admin.register(Act)
class ActAdmin(House):
    """What staff did: who, when, from where, to what, and what it changed."""

    merchant = None

    list_display = ("seq", "recorded_at", "who", "what", "kind_of_record", "label", "outcome", "why", "address")
    list_filter = (ByWho, ByVerb, ByKind, "outcome", "recorded_at")
    links = ("object_id", "kind")
    facts = (
        "seq", "recorded_at", "who", "address", "session", "what", "outcome", "kind_of_record", "subject", "made",
        "why", "hash", "previous",
    )  # fmt: skip
    search_help_text = _("an object's id")
    empty = _("Everything that staff do from now on stands here.")

    @column(_("what"))
    def what(self, row: Act) -> Any:
        return what(row)

    @column(_("record"))
    def kind_of_record(self, row: Act) -> Any:
        found = {model._meta.label_lower: model._meta.verbose_name for model in self.admin_site._registry}
        return found.get(row.kind, row.kind or NOTHING)

    @column(_("reason"))
    def why(self, row: Act) -> Any:
        return why(row) or NOTHING

    @column(_("its name"))
    def subject(self, row: Act) -> Any:
        model = next((one for one in self.admin_site._registry if one._meta.label_lower == row.kind), None)
        if model is None or not row.object_id:
            return row.label or NOTHING
        where = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_change", args=[row.object_id])
        return format_html('<a class="to" href="{}">{}</a>', where, row.label or row.object_id)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        # It is history itself, and has none.
        return super().change_view(request, object_id, form_url, {"history": "", **(extra_context or {})})

    def find(self, text: str) -> list[Any]:
        return list(Act.objects.filter(object_id=text).order_by("-seq").values_list("pk", flat=True)[:500])

    def panels(self, request: HttpRequest, row: Act) -> Iterable[Panel]:
        names = list(dict.fromkeys([*row.before, *row.after]))
        yield Panel(
            _("what changed"),
            (_("field"), _("before"), _("after")),
            [(_field_name(row, name), _said(row.before.get(name)), _said(row.after.get(name))) for name in names],
            _("No field of the record itself."),
        )
        yield Panel(
            _("what stood on the form"),
            (),
            [(name, _said(value)) for name, value in row.asked.items()],
            _("Nothing but the reason, if there is one."),
        )
