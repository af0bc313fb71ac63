"""The back office's grammar: how a record is listed, shown and acted on. The only module that knows the theme.

Every model is registered through ``House`` or, where staff set terms, ``Terms``. A ``House`` record is never
added, changed or deleted by hand, by nobody and under no permission: it is acted on by verbs, each a button that makes
one call into the business and shows its refusal in the business's words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property, partial
from html import unescape
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple
from urllib.parse import unquote_plus, urlencode
from uuid import UUID

from django import forms
from django.apps import apps
from django.contrib import admin, messages
from django.contrib.admin import ShowFacets
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import PAGE_VAR, SEARCH_VAR
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import Group, User
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.paginator import Paginator
from django.db import models, transaction
from django.db.models import Model, QuerySet
from django.http import (
    FileResponse,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    StreamingHttpResponse,
)
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path, reverse
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac
from django.utils.html import format_html, format_html_join, strip_tags
from django.utils.safestring import SafeString
from django.utils.text import capfirst, format_lazy
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

from config import audit, bulk, exports, signing_in
from config.errors import Refused
from config.models import Act, Bulk, BulkItem, Export, Order
from config.money import AmountNotReadable, format_yuan, parse_yuan
from config.spreadsheets import CSV_HEAD, Cell, csv_rows

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


class Figure(SafeString):
    """A figure as a page shows it, and as a spreadsheet can reckon with it."""

    value: int | Decimal | None


def figure(text: object) -> SafeString:
    """A figure in a column of figures: to the right, all digits of one width."""
    return format_html('<span class="figure">{}</span>', text)


def _figure(text: str, value: int | Decimal | None) -> Figure:
    shown = Figure(figure(NOTHING if value is None else text))
    shown.value = value
    return shown


def yuan(fen: int | None) -> SafeString:
    """An amount in fen as ``¥12,345.67``."""
    return _figure("", None) if fen is None else _figure(format_yuan(fen), Decimal(fen).scaleb(-2))


def number(value: int | None) -> SafeString:
    return _figure(f"{value:,}" if value is not None else "", value)


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
    # It may be done to many records of a list at once; its form then is no more than a reason.
    bulk: bool = False

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
    "order_export": _("ordered an export"),
    "order_bulk": _("ordered bulk work"),
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


class Tab(NamedTuple):
    """A view of a list under a name: a link with these filters in it."""

    label: object
    filters: Callable[[HttpRequest], Mapping[str, object]] = lambda request: {}


class Day(forms.DateField):
    """A calendar day, written as 2026-03-01 and no other way: Python would read digits of any script."""

    widget = forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d")
    _WRITTEN = re.compile(r"(?:19|20|21)\d\d-\d\d-\d\d", re.ASCII)

    def to_python(self, value: Any) -> date | None:
        if isinstance(value, str) and value and not self._WRITTEN.fullmatch(value):
            raise ValidationError(self.error_messages["invalid"], code="invalid")
        return super().to_python(value)


class Ranges(forms.Form):
    """From–to for some columns of a list: days for moments, amounts in yuan; both ends belong to it."""

    def __init__(self, house: House, data: Any) -> None:
        super().__init__(data)
        self.house = house
        for name in house.ranges:
            for end, word in (("from", _("from")), ("to", _("to"))):
                is_money = name in house.money
                field: forms.Field = Yuan(zero=True, required=False) if is_money else Day(required=False)
                label = _("entered") if name == house.opts.pk.name else house.label(name)
                field.label = format_lazy("{} {}", label, word)
                self.fields[f"{name}_{end}"] = field
        dress(self)
        for field in self.fields.values():
            field.widget.attrs.pop("autofocus", None)

    def used(self) -> set[str]:
        return {name for name in self.fields if self.data.get(name)}

    def within(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        """The rows between the ends; none while one of them cannot be read."""
        if not self.is_valid():
            return rows.none()
        for name in self.house.ranges:
            low, high = self.cleaned_data[f"{name}_from"], self.cleaned_data[f"{name}_to"]
            field = self.house._fields[name]
            if field.primary_key or isinstance(field, models.DateTimeField):
                bound: Callable[[date], Any] = _first_id if field.primary_key else _midnight
                if low:
                    rows = rows.filter(**{f"{name}__gte": bound(low)})
                if high:
                    rows = rows.filter(**{f"{name}__lt": bound(high + timedelta(days=1))})
                continue
            if low is not None:
                rows = rows.filter(**{f"{name}__gte": low})
            if high is not None:
                rows = rows.filter(**{f"{name}__lte": high})
        return rows


def _midnight(day: date) -> datetime:
    """Where the reader's day begins."""
    return timezone.make_aware(datetime.combine(day, time.min))


def _first_id(day: date) -> UUID:
    """The least identity made on a day: they begin with their millisecond (RFC 9562), so no other index is needed."""
    return UUID(int=max(0, int(_midnight(day).timestamp() * 1000)) << 80)


class Rows(ChangeList):
    @cached_property
    def ranges(self) -> Ranges:
        return Ranges(self.model_admin, self.params)

    @property
    def kept(self) -> list[tuple[str, str]]:
        """What else stands in the address: the form of ranges sends it along."""
        return [(name, value) for name, value in self.params.items() if name not in self.ranges.fields]

    def get_filters_params(self, params: Any = None) -> Any:
        found = super().get_filters_params(params)
        return {name: value for name, value in found.items() if name not in self.ranges.fields}

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        rows = self.ranges.within(super().get_queryset(request, exclude_parameters))
        self.has_active_filters: bool = self.has_active_filters or bool(self.ranges.used())
        return rows

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        if not (self.has_active_filters or self.query):
            self.full_result_count = self.result_count


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
        row = self.get_object(request, unquote(object_id))
        if row is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        if not self.has_view_permission(request, row):
            raise PermissionDenied
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
    tabs: ClassVar[Sequence[Tab]] = ()
    ranges: ClassVar[Sequence[str]] = ()
    """Fields that the list is narrowed by from–to: indexed where the table is large. ``id`` is when it was entered."""
    guarded: ClassVar[Mapping[str, str]] = {}
    """Columns and facts that only those see who hold ``view_<…>_<model>``."""
    summed: ClassVar[Mapping[str, models.Aggregate] | None] = None
    """What is added up of a list; else each column of money."""
    list_before_template = "admin/list_head.html"
    empty: ClassVar[object] = ""
    """What to do when the list is empty."""

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
        if request is not None and any(
            lookup.startswith(name) for name in self.guarded if not self.sees(request, name)
        ):
            return False
        filters = {
            one if isinstance(one, str) else one[0] if isinstance(one, tuple) else one.parameter_name
            for one in self.list_filter
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

    def _column(self, name: str, *, first: bool) -> Callable[[Any], Any]:
        column = partial(self.cell, name=name, linked=not first)
        field = self._fields.get(name)
        figures = name in self.money or (field is None and getattr(getattr(self, name), "is_figure", False))
        column.__name__ = f"figure_{name}" if figures else name  # type: ignore[attr-defined]
        column.short_description = self.label(name)  # type: ignore[attr-defined]
        if self.sortable_by is None and field is not None:
            column.admin_order_field = name  # type: ignore[attr-defined]
        return column

    def get_list_display(self, request: HttpRequest) -> Sequence[Any]:
        shown = self.columns_of(request)
        return [kept for name, kept in zip(self.list_display, self._columns, strict=True) if name in shown]

    def columns_of(self, request: HttpRequest) -> list[str]:
        """The columns that this person may see."""
        return [str(name) for name in self.list_display if self.sees(request, str(name))]

    def sees(self, request: HttpRequest, name: str) -> bool:
        what = self.guarded.get(name)
        return what is None or request.user.has_perm(f"{self.opts.app_label}.view_{what}_{self.opts.model_name}")

    def plain(self, row: Any, name: str) -> Cell:
        """What ``cell`` shows, for a spreadsheet: amounts in yuan as numbers, nothing as nothing."""
        field = self._fields.get(name)
        shown = getattr(self, name)(row) if field is None else getattr(row, name)
        if isinstance(shown, Figure):
            return shown.value
        if shown is None or shown == NOTHING or isinstance(shown, bool):
            return None if not isinstance(shown, bool) else str(yes_no(shown))
        if field is None:
            return unescape(strip_tags(str(shown))).strip()
        if name in self.money:
            return Decimal(shown).scaleb(-2)
        if getattr(field, "choices", None):
            return str(getattr(row, f"get_{name}_display")())
        if isinstance(shown, datetime):
            return f"{timezone.localtime(shown):%Y-%m-%d %H:%M:%S}"
        if isinstance(shown, int | Decimal) and not field.primary_key:
            return shown
        return str(shown)

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

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if any("\x00" in value for value in request.GET.values()) or not _is_page(request.GET.get(PAGE_VAR, "1")):
            return HttpResponseRedirect(request.path)
        if request.method == "POST":
            return self._chosen_on_list(request)
        buttons = [
            Button(verb.label, verb.tone, self._verb_url(verb), None)
            for verb in self.list_verbs
            if self.may(request, verb)
        ]
        buttons += [Button(sheet.label, "", self.sheet_url(sheet), None) for sheet in self.open_sheets(request)]
        if exports.may_order(request):
            buttons.append(Button(EXPORT.label, "", f"{self._list_url('export')}?{request.GET.urlencode()}", None))
        context = {"buttons": buttons, **(extra_context or {})}
        page = super().changelist_view(request, context)
        if isinstance(page, TemplateResponse) and page.context_data and "cl" in page.context_data:
            rows = page.context_data["cl"]
            page.context_data |= {"tabs": self._tabs(request), "totals": self._totals(request, rows)}
        return page

    # What stands above a list

    def _tabs(self, request: HttpRequest) -> list[tuple[object, str, bool]]:
        """Each tab's name and address, and whether it is what is looked at."""
        asked = {name: value for name, value in request.GET.items() if name != PAGE_VAR}
        found = []
        for tab in self.tabs:
            filters = {name: str(value) for name, value in tab.filters(request).items()}
            found.append((tab.label, f"?{urlencode(filters)}", filters == asked))
        return found

    def _sums(self, request: HttpRequest) -> dict[str, models.Aggregate]:
        if self.summed is not None:
            return dict(self.summed)
        return {name: models.Sum(name) for name in self.columns_of(request) if name in self.money}

    def _totals(self, request: HttpRequest, rows: Rows) -> dict[str, object]:
        """What the list adds up to: of its newest ``MOST_SUMMED`` rows and one, which shows whether there are more."""
        sums = self._sums(request)
        if not sums:
            return {}
        newest = rows.queryset.select_related(None).order_by("-pk")[: MOST_SUMMED + 1]
        found = newest.aggregate(rows_of_list=models.Count("pk"), **{f"sum_{name}": one for name, one in sums.items()})
        return {
            "is_cut": found["rows_of_list"] > MOST_SUMMED,
            "most": f"{MOST_SUMMED:,}",
            "sums": [(self.label(name), yuan(int(found[f"sum_{name}"] or 0))) for name in sums],
        }

    # Orders: a list as a file, one verb for many of its records

    def _list_url(self, name: str) -> str:
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_{name}")

    def bulk_verbs(self, request: HttpRequest) -> list[Verb]:
        if not self.has_view_permission(request):
            return []
        return [verb for verb in self.verbs if verb.bulk and self.may(request, verb)]

    def bulk_verb(self, request: HttpRequest, name: str) -> Verb | None:
        """The verb of that name, if this person may do it to many records."""
        return next((verb for verb in self.bulk_verbs(request) if verb.name == name), None)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        # Only what the list offers: where a choice leads is said by ``_chosen_on_list``.
        return {verb.name: (None, verb.name, capfirst(str(verb.label))) for verb in self.bulk_verbs(request)}

    def _chosen_on_list(self, request: HttpRequest) -> HttpResponse:
        verb = self.bulk_verb(request, request.POST.get("action", ""))
        if verb is None:
            return HttpResponseRedirect(request.get_full_path())
        query = request.GET.copy()
        query.pop(PAGE_VAR, None)
        if request.POST.get("select_across") != "1":
            chosen = request.POST.getlist(ACTION_CHECKBOX_NAME)[: self.list_per_page]
            return HttpResponseRedirect(
                f"{self._list_url(f'bulk_{verb.name}')}?{urlencode({CHOSEN: ','.join(chosen)})}"
            )
        return HttpResponseRedirect(f"{self._list_url(f'bulk_{verb.name}')}?{query.urlencode()}")

    def _chosen(self, request: HttpRequest) -> list[Any]:
        """Keys of the records that are chosen, or of all that the filters leave: one more than may be, at most."""
        if CHOSEN in request.GET:
            keys = []
            for text in request.GET[CHOSEN].split(","):
                try:
                    keys.append(self.opts.pk.to_python(text))
                except ValidationError:
                    continue
            rows = self.get_queryset(request).filter(pk__in=keys[: self.list_per_page])
        else:
            rows = exports.listed(self, request, None)
        return list(rows.order_by("-pk").values_list("pk", flat=True)[: bulk.MOST + 1])

    def do_to_many(self, request: HttpRequest, *, name: str) -> HttpResponseBase:
        """Show to how many records of which sum a verb would be done; on POST, order it and show how far it is."""
        verb = self.bulk_verb(request, name)
        if verb is None:
            raise PermissionDenied
        try:
            keys = self._chosen(request) if _is_whole(request) else []
            if len(keys) > bulk.MOST:
                raise bulk.TooManyRecords(most=f"{bulk.MOST:,}")
            if not keys:
                raise bulk.NothingChosen()
        except (IncorrectLookupParameters, Refused) as refused:
            messages.error(request, str(refused))
            return HttpResponseRedirect(listing(self.model))
        form = self._verb_form(request, replace(verb, form=verb.form or Reason), None)
        sure = salted_hmac("what was chosen", json.dumps([request.path, [str(key) for key in keys]])).hexdigest()
        if request.method == "POST" and form.is_valid():
            if constant_time_compare(request.POST.get("sure", ""), sure):
                data = form.cleaned_data
                return HttpResponseRedirect(
                    address(bulk.order(request=request, house=self, verb=verb, data=data, keys=keys)) or ""
                )
            messages.warning(request, _("The list has changed meanwhile: look at it again."))
        return self._asking(
            request, replace(verb, quotes=True), form, preview=self._what_is_chosen(request, verb, keys), sure=sure
        )

    def _what_is_chosen(self, request: HttpRequest, verb: Verb, keys: list[Any]) -> Facts:
        sums = {f"sum_{name}": one for name, one in self._sums(request).items()}
        rows = self.get_queryset(request).filter(pk__in=keys).order_by()
        ready = models.Count("pk", filter=models.Q(state__in=verb.states) if verb.states is not None else None)
        found = rows.aggregate(rows_of_list=models.Count("pk"), ready=ready, **sums)
        return [
            (_("records"), number(found["rows_of_list"])),
            (_("of these in a state that allows it"), number(found["ready"])),
            *((self.label(name.removeprefix("sum_")), yuan(int(found[name] or 0))) for name in sums),
        ]

    def order_export(self, request: HttpRequest) -> HttpResponseBase:
        """Ask for the format of the file; on POST, order it and show how far it is."""
        if not (exports.may_order(request) and self.has_view_permission(request)):
            raise PermissionDenied
        back = f"{listing(self.model)}?{request.GET.urlencode()}"
        try:
            if not _is_whole(request) or not Ranges(self, request.GET).is_valid():
                return HttpResponseRedirect(back)
            rows = Pages(exports.listed(self, request, None), 1)
        except IncorrectLookupParameters:
            return HttpResponseRedirect(listing(self.model))
        form = self._verb_form(request, EXPORT, None)
        if request.method == "POST" and form.is_valid():
            made: Any = EXPORT.run(request, self, form.cleaned_data)
            return HttpResponseRedirect(address(made) or "")
        count = f"> {rows.count:,}" if rows.is_cut else f"{rows.count:,}"
        columns = ", ".join(str(self.label(name)) for name in self.columns_of(request))
        preview = [(_("list"), self.opts.verbose_name_plural), (_("rows"), count), (_("columns"), columns)]
        return self._asking(request, EXPORT, form, preview=preview, back=back)

    def _asking(
        self, request: HttpRequest, verb: Verb, form: forms.Form, *, preview: Facts, sure: str = "", back: str = ""
    ) -> TemplateResponse:
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": verb.label,
            "verb": verb,
            "form": form,
            "preview": preview,
            "is_sure": True,
            "sure": sure,
            "back": back or listing(self.model),
        }
        return TemplateResponse(request, "admin/verb.html", context)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        queryset = super().get_queryset(request)
        is_list = request.resolver_match is not None and str(request.resolver_match.url_name).endswith("_changelist")
        return queryset.defer(*self.heavy) if is_list and self.heavy else queryset

    # A record's page

    def about(self, request: HttpRequest, row: Any) -> Facts:
        """What a record's page says first."""
        names = [name for name in self.facts or self._all_fields() if self.sees(request, name)]
        return [(capfirst(str(self.label(name))), self.cell(row, name)) for name in names]

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

    def buttons(self, request: HttpRequest, row: Any) -> list[Button]:
        return [
            Button(verb.label, verb.tone, self._verb_url(verb, row), verb.barred(request, row) if verb.barred else None)
            for verb in self.verbs
            if verb.offered(row) and self.may(request, verb)
        ]

    def _page(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        return {
            "buttons": self.buttons(request, row),
            "panels": list(self.panels(request, row)),
            "note": self.note(request, row),
            "is_moving": self.is_moving(row),
        }

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        row = self.get_object(request, unquote(object_id))
        if row is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        if not self.has_view_permission(request, row):
            raise PermissionDenied
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
            path(f"bulk/{verb.name}/", wrap(partial(self.do_to_many, name=verb.name)), name=f"{name}_bulk_{verb.name}")
            for verb in self.verbs
            if verb.bulk
        ]
        own.append(path("export/", wrap(self.order_export), name=f"{name}_export"))
        return own + super().get_urls()

    # Sheets

    def open_sheets(self, request: HttpRequest) -> list[Sheet]:
        """The sheets that this person may look at."""
        model = self.opts.model_name
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
            if why := self.why_not(request, verb, row):
                messages.error(request, str(why))
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
            "is_sure": is_sure or not verb.quotes,
            "sure": _digest(request),
            "back": back,
        }
        return TemplateResponse(request, "admin/verb.html", context)

    def why_not(self, request: HttpRequest, verb: Verb, row: Any) -> object:
        """Why a verb's button is not there for this record, or cannot be pressed; that it was tried is written down."""
        if not verb.offered(row):
            self._tried(request, verb, row, "NotOffered")
            return _("This is no longer possible: somebody was first. Look at the record again.")
        if verb.barred and (reason := verb.barred(request, row)):
            self._tried(request, verb, row, "Barred")
            return reason
        return ""

    def _tried(self, request: HttpRequest, verb: Verb, row: Any, why: str) -> None:
        """Somebody sent a form that their page does not offer: above all, to decide what they prepared themselves."""
        if request.method == "POST":
            audit.record(request, verb.name, row=row, after={"refused": why}, outcome=Act.Outcome.REFUSED)

    def _verb_form(self, request: HttpRequest, verb: Verb, row: Any) -> forms.Form:
        make = verb.form or forms.Form
        row_argument = {"row": row} if getattr(make, "takes_row", False) else {}
        if request.method == "POST":
            return dress(make(request.POST, request.FILES, **row_argument))
        return dress(make(initial=request.GET.dict(), **row_argument))

    def _done(self, request: HttpRequest, verb: Verb, row: Any, form: forms.Form, back: str) -> HttpResponseBase:
        result = self.perform(request, verb, row, form.cleaned_data)
        made = result if isinstance(result, Model) else None
        if isinstance(result, HttpResponseBase):
            return result
        if made is not None:
            # Its page says what became of it, which need not be what was hoped for.
            return HttpResponseRedirect(address(made) or back)
        messages.success(request, str(result))
        return HttpResponseRedirect(back)

    def perform(self, request: HttpRequest, verb: Verb, row: Any, data: dict[str, Any]) -> object:
        """Do a verb once, with its row of the audit. Whether it may be done is asked before.

        :raises Refused: what the business says no to; it was tried, and that is written down.
        """
        asked = dict(data)
        why = str(asked.pop("reason", "") or "")
        deed: dict[str, Any] = {"row": row, "kind": self.opts.label_lower, "asked": asked, "reason": why}
        try:
            if verb.apart:
                audit.record(request, verb.name, **deed)
                result = verb.run(request, row, data)
            else:
                with transaction.atomic():
                    result = verb.run(request, row, data)
                    self._write_down(request, verb, deed, result)
        except Refused as refused:
            # What it did is rolled back; that it was tried is not.
            audit.record(request, verb.name, **deed, after={"refused": refused.code}, outcome=Act.Outcome.REFUSED)
            raise
        return result

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
        (name, values) for name, values in request.POST.lists() if name not in ("csrfmiddlewaretoken", "sure")
    )
    return salted_hmac("what was quoted", json.dumps([request.path, sent])).hexdigest()


def _is_page(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 7


def _is_whole(request: HttpRequest) -> bool:
    """Whether the database can be asked with this query string at all."""
    return not any("\x00" in value for value in request.GET.values())


CHOSEN = "chosen"
"""In the address of bulk work: the keys of the records that are chosen on the list."""

MOST_SUMMED = 10_000
"""A list is added up so far and no further."""


class ExportForm(forms.Form):
    format = forms.ChoiceField(label=_("format"), choices=Export.Format)


def _order_export(request: HttpRequest, house: House, data: dict[str, Any]) -> Export:
    text = request.GET.get(SEARCH_VAR, "").strip()
    found = house.find(text)[:500] if text and house.search_help_text else None
    return exports.order(request=request, house=house, format=data["format"], keys=found)


EXPORT = Verb(
    "order_export",
    _("export"),
    _order_export,
    form=ExportForm,
    words=_(
        "The list as its filters leave it, with the columns that you see, becomes a file in the background. "
        "It is yours alone and deleted after a day; that you ordered and downloaded it is written down."
    ),
)


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
        return ModelAdmin.has_add_permission(self, request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return ModelAdmin.has_change_permission(self, request, obj) and not (obj and self.locked(obj))

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
    )),
    (_("In the background"), (
        ("config.bulk", "checklist"),
        ("config.export", "download"),
    )),
    (_("Staff"), (
        ("auth.user", "group"),
        ("auth.group", "badge"),
        ("config.act", "history"),
    )),
)  # fmt: skip


def menu(request: HttpRequest) -> list[dict[str, Any]]:
    """The side bar: what this person may look at, by subject."""
    groups = []
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


def by_state(all_of_them: object, *states: Any) -> tuple[Tab, ...]:
    """Tabs for all records and for those of some states, each under the state's own name."""
    return (
        Tab(all_of_them),
        *(Tab(state.label, lambda request, state=state: {"state__exact": state.value}) for state in states),  # type: ignore[misc]
    )


@admin.register(Act)
class ActAdmin(House):
    """What staff did: who, when, from where, to what, and what it changed."""

    list_display = ("seq", "recorded_at", "who", "what", "kind_of_record", "label", "outcome", "why", "address")
    list_filter = (ByWho, ByVerb, ByKind, "outcome", "recorded_at")
    ranges = ("recorded_at",)
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


# Orders: exports and bulk work -----------------------------------------------------------------------------------


class OrderAdmin(House):
    """What this person ordered; what others did is theirs."""

    list_filter = ("state",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).filter(made_by=request.user.pk)

    def is_moving(self, row: Order) -> bool:
        return row.state == Order.State.RUNNING

    def note(self, request: HttpRequest, row: Order) -> object:
        if row.state == Order.State.RUNNING:
            return _("This page can be closed: the work goes on, and stands here when you come back.")
        return row.problem

    @column(_("list"))
    def of_list(self, row: Order) -> object:
        model = apps.get_model(row.kind)
        return capfirst(str(model._meta.verbose_name_plural))


def _cancel_export(request: HttpRequest, row: Export, data: dict[str, Any]) -> object:
    exports.cancel(export=row, now=timezone.now())
    return _("Cancelled. What was written is deleted.")


def _download_export(request: HttpRequest, row: Export, data: dict[str, Any]) -> FileResponse:
    name = f"{row.kind.replace('.', '-')}-{timezone.localtime(row.recorded_at):%Y%m%d-%H%M}.{row.format.lower()}"
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return FileResponse(
        exports.opened(export=row, now=timezone.now()), as_attachment=True, filename=name, headers=headers
    )


@admin.register(Export)
class ExportAdmin(OrderAdmin):
    list_display = ("recorded_at", "of_list", "format", "state", "rows", "expires_at")
    facts = ("of_list", "filters", "format", "state", "rows", "size", "recorded_at", "finished_at", "expires_at")
    empty = _("Press “export” above any list: the file is written in the background and stands here.")
    verbs = (
        Verb("download", _("download"), _download_export, states=("DONE",), tone="main",
             words=_("The file holds what you may see. Keep it where others cannot read it.")),
        Verb("cancel", _("cancel"), _cancel_export, states=("RUNNING",), tone="bad"),
    )  # fmt: skip

    @column(_("filters"))
    def filters(self, row: Export) -> str:
        found = [unquote_plus(part) for part in row.query.split("&") if part]
        if row.keys is not None:
            found.append(gettext("what a search found"))
        return ", ".join(found) or NOTHING

    def panels(self, request: HttpRequest, row: Export) -> Iterable[Panel]:
        if row.state == Export.State.RUNNING and row.total is not None:
            yield Panel(_("progress"), bar=(min(row.rows, row.total), max(row.total, 1)))


def _cancel_bulk(request: HttpRequest, row: Bulk, data: dict[str, Any]) -> object:
    bulk.cancel(work=row, now=timezone.now())
    return _("Cancelled. What was done stays done; the rest is not.")


def _again(request: HttpRequest, row: Bulk, data: dict[str, Any]) -> Bulk:
    return bulk.again(request=request, work=row)


def _failures(request: HttpRequest, row: Bulk, data: dict[str, Any]) -> StreamingHttpResponse:
    return StreamingHttpResponse(
        _failures_as_csv(row),
        content_type="text/csv; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="failures-{row.pk.hex}.csv"',
            "Cache-Control": "no-store",
        },
    )


def _failures_as_csv(row: Bulk) -> Iterable[bytes]:
    yield CSV_HEAD + csv_rows([("record", "id", "refused_as", "reason")])
    failed = row.items.filter(state=BulkItem.State.FAILED).order_by("pk")
    for item in failed.values_list("label", "key", "refusal", "reason").iterator(chunk_size=2000):
        yield csv_rows([item])


@admin.register(Bulk)
class BulkAdmin(OrderAdmin):
    list_display = ("recorded_at", "of_list", "what", "state", "total", "done", "failed")
    facts = ("of_list", "what", "reason", "state", "total", "done", "failed", "recorded_at", "finished_at", "again_of")
    empty = _("Select records in a list and choose what to do with them: how far it is stands here.")
    verbs = (
        Verb("again", _("again for those that failed"), _again, states=("DONE", "FAILED", "CANCELLED"),
             shown=lambda row: row.failed > 0, tone="main"),
        Verb("download", _("download failures"), _failures, shown=lambda row: row.failed > 0,
             words=_("A CSV file with each record that failed, and why.")),
        Verb("cancel", _("cancel"), _cancel_bulk, states=("RUNNING",), tone="bad"),
    )  # fmt: skip

    @column(_("what"))
    def what(self, row: Bulk) -> object:
        house = self.admin_site._registry[apps.get_model(row.kind)]
        verb = next((one for one in getattr(house, "verbs", ()) if one.name == row.verb), None)
        return verb.label if verb is not None else row.verb

    @column(_("reason"))
    def reason(self, row: Bulk) -> object:
        return row.data.get("reason") or NOTHING

    def panels(self, request: HttpRequest, row: Bulk) -> Iterable[Panel]:
        yield Panel(_("progress"), bar=(row.done + row.failed, row.total or 1))
        failed = list(row.items.filter(state=BulkItem.State.FAILED).order_by("pk")[:50])
        opts = apps.get_model(row.kind)._meta
        page = f"admin:{opts.app_label}_{opts.model_name}_change"
        yield Panel(
            _("failed"),
            (_("record"), _("refused as"), _("reason")),
            [
                (
                    format_html('<a class="to" href="{}">{}</a>', reverse(page, args=[one.key]), one),
                    one.refusal,
                    one.reason,
                )
                for one in failed
            ],
            _("Nothing failed."),
            note=_("The first 50; download the file for all.") if row.failed > 50 else "",
        )
