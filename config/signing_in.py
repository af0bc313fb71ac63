"""Who gets into the back office: password, second factor, and when a session ends.

There is one door, ``Site.login``. Whoever has given the password but not yet the second factor is nobody: only the
session remembers whose code it waits for.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import segno
from axes.handlers.proxy import AxesProxyHandler
from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import login, logout
from django.contrib.auth.models import User
from django.contrib.auth.views import LoginView
from django.db import transaction
from django.db.models import Exists, OuterRef
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from django.utils.decorators import method_decorator
from django.utils.http import urlencode
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.debug import sensitive_post_parameters
from django_otp import login as remember_factor
from unfold.sites import UnfoldAdminSite
from unfold.widgets import BASE_INPUT_CLASSES

from config import audit, lockout, roles
from config.errors import Refused
from config.models import SECOND_FACTORS, Authenticator, RecoveryCode

BACKEND = "django.contrib.auth.backends.ModelBackend"
COMING, STAMP = "coming", "staff"
PATIENCE = timedelta(minutes=10)
"""How long after the password the second factor may come."""

# Why, as the audit says it: kept in English, shown in the reader's language.
OLD = gettext_noop("it was as old as a session may become")
UNUSED = gettext_noop("nobody used it")
CHANGED = gettext_noop("the person's rights or second factor changed")
WRONG_PASSWORD, WRONG_CODE = gettext_noop("wrong password"), gettext_noop("wrong code")

RECOVERY_CODES = 10
# 32 characters without look-alikes; ten of them are 50 bits, and ten wrong ones lock the door.
_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
_SEEN_EVERY = timedelta(minutes=1)


class WrongCode(Refused):
    status = 403
    text = _("This code is not right, or was used already. Wait for the next one.")


class TooEarly(Refused):
    """After a wrong code the next is looked at a little later, each time twice as late."""

    status = 429
    text = _("After wrong codes one has to wait. Try again in %(seconds)s seconds.")


# The factor ------------------------------------------------------------------------------------------------------


def moves_something(user: User) -> bool:
    """Whether this person may do more than look."""
    return user.is_superuser or any(
        not name.partition(".")[2].startswith("view_") for name in user.get_all_permissions() - roles.OWN
    )


def authenticator(user: User) -> Authenticator | None:
    return Authenticator.objects.filter(user=user, confirmed=True).first()


HAS_FACTOR = Exists(Authenticator.objects.filter(user=OuterRef("pk"), confirmed=True))


def is_factor_asked(user: User) -> bool:
    """Who has a second factor is asked for it; who may do more than look has to have one, where that is required."""
    return (settings.SECOND_FACTOR == "required" and moves_something(user)) or authenticator(user) is not None


def check_code(user: User, text: str) -> tuple[Authenticator, str]:
    """The factor that a code shows, and which kind of code it was. Either kind counts once.

    :raises WrongCode, TooEarly:
    """
    code = text.upper().replace(" ", "").replace("-", "")
    with transaction.atomic():
        # Its lock has two who send the same code come one after the other.
        factor = Authenticator.objects.select_for_update().filter(user=user, confirmed=True).first()
        if factor is None:
            raise WrongCode
        _not_too_early(factor)
        if len(code) == 6 and factor.verify_token(code):
            return factor, "code"
        unused = RecoveryCode.objects.filter(user=user, used_at=None, code_hash__in=SECOND_FACTORS.hashes(code))
        if len(code) > 6 and unused.update(used_at=timezone.now()):
            factor.throttle_reset()
            return factor, "recovery code"
        if len(code) != 6:
            factor.throttle_increment()
    raise WrongCode


def _not_too_early(factor: Authenticator) -> None:
    is_allowed, why = factor.verify_is_allowed()
    if not is_allowed:
        left = why["locked_until"] - timezone.now()
        raise TooEarly(seconds=max(1, -(-left // timedelta(seconds=1))))


def candidate(user: User) -> Authenticator:
    """The factor that is being set up: the same one while its page is looked at, a new one an hour later."""
    stale = timezone.now() - timedelta(hours=1)
    Authenticator.objects.filter(user=user, confirmed=False, recorded_at__lt=stale).delete()
    [sealed] = SECOND_FACTORS.seal_all([secrets.token_hex(20)])
    found, _made = Authenticator.objects.get_or_create(
        user=user, confirmed=False, defaults={"name": "app", "secret_sealed": sealed}
    )
    return found


def new_recovery_codes(user: User) -> list[str]:
    """Ten new codes, the old ones void; only their hashes are kept."""
    codes = ["".join(secrets.choice(_ALPHABET) for _n in range(10)) for _m in range(RECOVERY_CODES)]
    RecoveryCode.objects.filter(user=user).delete()
    RecoveryCode.objects.bulk_create(RecoveryCode(user=user, code_hash=SECOND_FACTORS.hash(code)) for code in codes)
    return [f"{code[:5]}-{code[5:]}" for code in codes]


def take_away(user: User) -> None:
    """Somebody's factor is gone; they set up another one when they sign in next. Their sessions end."""
    Authenticator.objects.filter(user=user).delete()
    RecoveryCode.objects.filter(user=user).delete()


# The session -----------------------------------------------------------------------------------------------------


def standing(user: User) -> str:
    """What a person may do and how they show who they are, as one word: when it changes, their sessions end."""
    factor = authenticator(user)
    may = "all" if user.is_superuser else sorted(user.get_all_permissions())
    facts = [user.is_staff, may, factor and factor.pk]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _stamp(request: HttpRequest, user: User, now: datetime) -> None:
    at = now.timestamp()
    request.session[STAMP] = {"began": at, "seen": at, "standing": standing(user)}


def enter(request: HttpRequest, user: User, *, factor: Authenticator | None, by: str) -> None:
    """Sign somebody in who has shown all that is asked of them; the session gets another key."""
    with transaction.atomic():
        request.session.pop(COMING, None)
        login(request, user, backend=BACKEND)
        if factor is not None:
            remember_factor(request, factor)
        _stamp(request, user, timezone.now())
        audit.record(request, "sign_in", row=user, asked={"with": by})


class SessionsEnd:
    """Staff's sessions end: when nobody used them for a while, after a working day, and at once when the person's
    rights or factor change. A changed password or a disabled person ends them in Django itself."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response
        self.door = reverse("admin:index")

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if settings.SESSION_COOKIE_NAME in request.COOKIES and request.path.startswith(self.door):
            why = self._why_over(request)
            if why:
                with transaction.atomic():
                    audit.record(request, "session_ended", row=request.user, reason=why)  # type: ignore[arg-type]
                logout(request)
                messages.warning(request, _("Your session has ended. Sign in again."))
                return HttpResponseRedirect(f"{reverse('admin:login')}?{urlencode({'next': request.path})}")
        return self.get_response(request)

    def _why_over(self, request: HttpRequest) -> str:
        user = request.user
        if not isinstance(user, User):
            return ""
        now = timezone.now()
        stamp = request.session.get(STAMP)
        if stamp is None:
            _stamp(request, user, now)
            return ""
        if now.timestamp() - stamp["began"] > settings.SESSION_LONGEST.total_seconds():
            return OLD
        if now.timestamp() - stamp["seen"] > settings.SESSION_IDLE.total_seconds():
            return UNUSED
        if not constant_time_compare(stamp["standing"], standing(user)):
            return CHANGED
        if now.timestamp() - stamp["seen"] > _SEEN_EVERY.total_seconds():
            request.session[STAMP] = {**stamp, "seen": now.timestamp()}
        return ""


# The pages -------------------------------------------------------------------------------------------------------


class Code(forms.Form):
    code = forms.CharField(
        label=_("Code from your app, or a recovery code"),
        max_length=20,
        widget=forms.TextInput(
            attrs={
                "class": " ".join(BASE_INPUT_CLASSES), "autocomplete": "one-time-code", "inputmode": "text",
                "autocapitalize": "characters", "spellcheck": "false",
            }
        ),
    )  # fmt: skip


class FirstCode(Code):
    def __init__(self, *args: Any, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self.fields["code"].label = _("Code that the app shows now")
        self.fields["code"].widget.attrs["inputmode"] = "numeric"


class CodeOfTheNewOne(FirstCode):
    """Who moves to another telephone shows the old factor once more."""

    current = forms.CharField(
        label=_("Code from your present app, or a recovery code"),
        max_length=20,
        widget=forms.TextInput(attrs={"class": " ".join(BASE_INPUT_CLASSES), "autocomplete": "off"}),
    )
    field_order = ("current", "code")


class _SignIn(LoginView):
    """Username and password, in Unfold's look."""

    site: Any = None

    def form_valid(self, form: Any) -> HttpResponse:
        user = form.get_user()
        if not is_factor_asked(user):
            enter(self.request, user, factor=None, by="password")
            return HttpResponseRedirect(self.get_success_url())
        # Nothing of an earlier session goes on in the next.
        self.request.session.flush()
        self.request.session[COMING] = {
            "user": user.pk,
            "at": timezone.now().timestamp(),
            "auth": user.get_session_auth_hash(),
            "next": self.get_success_url(),
        }
        page = "admin:second_factor" if authenticator(user) is None else "admin:second_step"
        return HttpResponseRedirect(reverse(page))

    def form_invalid(self, form: Any) -> HttpResponse:
        name = form.data.get("username", "")
        if "__all__" in form.errors and _failed(self.request, name, why=WRONG_PASSWORD):
            return self.site.locked_out(self.request)
        return super().form_invalid(form)


def _failed(request: HttpRequest, name: str, *, why: str) -> bool:
    """Write a failed attempt down, if it counted; True when the door is locked by now.

    Only the name of somebody who exists is kept: what else stands there may be a password in the wrong field.
    """
    count = getattr(request, "axes_failures_since_start", None)
    is_locked = bool(getattr(request, "axes_locked_out", False))
    if count is not None or not is_locked:
        who = User.objects.filter(username=name[:150].replace("\x00", "")).first()
        with transaction.atomic():
            audit.record(
                request, "locked_out" if is_locked else "sign_in_failed", row=who, reason=why,
                who=who.get_username() if who else "", outcome="REFUSED",
            )  # fmt: skip
    return is_locked


def _coming(request: HttpRequest) -> User | None:
    """Whose password was right a moment ago, in this browser, and still is."""
    facts = request.session.get(COMING)
    if not facts or timezone.now().timestamp() - facts["at"] > PATIENCE.total_seconds():
        return None
    user = User.objects.filter(pk=facts["user"], is_active=True, is_staff=True).first()
    if user is None or not constant_time_compare(user.get_session_auth_hash(), facts["auth"]):
        return None
    return user


def own_pages(request: HttpRequest) -> list[dict[str, object]]:
    """What a person finds under their own name."""
    return [
        {"title": _("Second factor"), "link": reverse("admin:second_factor")},
        {"title": _("Change password"), "link": reverse("admin:password_change")},
    ]


class Site(UnfoldAdminSite):
    """The admin behind our own door: no page of it opens to a session without the factor that is asked for."""

    login_template = "admin/sign_in.html"

    def has_permission(self, request: HttpRequest) -> bool:
        user = request.user
        if not (isinstance(user, User) and user.is_active and user.is_staff):
            return False
        if getattr(user, "otp_device", None) is not None:
            return True
        if not hasattr(request, "is_factor_asked"):
            request.is_factor_asked = is_factor_asked(user)  # type: ignore[attr-defined]
        return not request.is_factor_asked  # type: ignore[attr-defined]

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        return {**super().each_context(request), "is_demonstration": settings.SECOND_FACTOR == "offered"}

    def get_urls(self) -> list[URLPattern]:
        return [
            path("sign-in/code/", self.second_step, name="second_step"),
            path("second-factor/", self.second_factor, name="second_factor"),
            *super().get_urls(),
        ]

    @method_decorator([never_cache, csrf_protect, sensitive_post_parameters()])
    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if request.method == "GET" and self.has_permission(request):
            return HttpResponseRedirect(reverse("admin:index"))
        context = {
            **self.each_context(request),
            "title": _("Sign in"),
            "subtitle": None,
            "app_path": request.get_full_path(),
            "username": request.user.get_username(),
            **(extra_context or {}),
        }
        door = _SignIn.as_view(
            site=self,
            authentication_form=self.login_form,
            template_name=self.login_template,
            extra_context=context,
            next_page="admin:index",
        )
        return door(request)  # type: ignore[return-value]

    @method_decorator([never_cache, csrf_protect, sensitive_post_parameters()])
    def second_step(self, request: HttpRequest) -> HttpResponse:
        """The code, after the password."""
        user = _coming(request)
        if user is None:
            return HttpResponseRedirect(reverse("admin:login"))
        form = Code(request.POST or None)
        if request.method == "POST" and form.is_valid():
            if not AxesProxyHandler.is_allowed(request, {"username": user.get_username()}):
                return self.locked_out(request)
            try:
                factor, kind = check_code(user, form.cleaned_data["code"])
            except TooEarly as refused:
                form.add_error("code", str(refused))
            except WrongCode as refused:
                if self._wrong_code(request, user):
                    return self.locked_out(request)
                form.add_error("code", str(refused))
            else:
                onward = request.session[COMING]["next"]
                enter(request, user, factor=factor, by=f"password and {kind}")
                return HttpResponseRedirect(onward)
        return self._page(request, "admin/second_step.html", title=_("Second factor"), form=_focused(form))

    def _wrong_code(self, request: HttpRequest, user: User) -> bool:
        AxesProxyHandler.user_login_failed(Site, {"username": user.get_username()}, request)
        return _failed(request, user.get_username(), why=WRONG_CODE)

    @method_decorator([never_cache, csrf_protect, sensitive_post_parameters()])
    def second_factor(self, request: HttpRequest) -> HttpResponse:
        """One's own factor: set up at the first sign-in, moved to another telephone, new recovery codes."""
        is_in = self.has_permission(request)
        user = request.user if is_in else _coming(request)
        if not isinstance(user, User):
            return HttpResponseRedirect(reverse("admin:login"))
        user = User.objects.get(pk=user.pk)
        has_one = authenticator(user) is not None
        if has_one and not is_in:
            # Else the password alone would be enough to put another factor in the place of this one.
            return HttpResponseRedirect(reverse("admin:second_step"))
        if has_one and "anew" not in request.GET:
            return self._recovery_codes(request, user)
        new = candidate(user)
        form = (CodeOfTheNewOne if has_one else FirstCode)(request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                if has_one:
                    check_code(user, form.cleaned_data["current"])
            except Refused as refused:
                if isinstance(refused, WrongCode):
                    self._wrong_code(request, user)
                form.add_error("current", str(refused))
            else:
                codes = self._set_up(request, user, form.cleaned_data["code"], is_in=is_in)
                if codes:
                    return self._shown_codes(request, codes)
                form.add_error("code", str(WrongCode()))
        secret = base64.b32encode(bytes.fromhex(new.secret())).decode()
        picture = segno.make(new.address(secret), error="m").svg_inline(scale=4, border=3, dark="#000", light="#fff")
        return self._page(
            request,
            "admin/set_up_factor.html",
            title=_("Set up your second factor"),
            form=_focused(form),
            picture=mark_safe(picture),  # noqa: S308  segno draws squares; nothing of anybody's stands in it as text
            secret=" ".join(secret[start : start + 4] for start in range(0, len(secret), 4)),
            is_in=is_in,
            is_move=has_one,
        )

    def _set_up(self, request: HttpRequest, user: User, code: str, *, is_in: bool) -> list[str]:
        """The recovery codes of a factor that has shown a right code; none if it has not."""
        with transaction.atomic():
            new = Authenticator.objects.select_for_update().get(user=user, confirmed=False)
            if not new.verify_token(code.replace(" ", "")):
                return []
            Authenticator.objects.filter(user=user, confirmed=True).delete()
            new.confirmed = True
            new.save()
            codes = new_recovery_codes(user)
            if is_in:
                remember_factor(request, new)
                _stamp(request, user, timezone.now())
            audit.record(request, "set_up_factor", row=user, who=user.get_username())
        if not is_in:
            onward = request.session[COMING]["next"]
            enter(request, user, factor=new, by="password and a new second factor")
            request.session["onward"] = onward
        return codes

    def _recovery_codes(self, request: HttpRequest, user: User) -> HttpResponse:
        form = Code(request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                check_code(user, form.cleaned_data["code"])
            except Refused as refused:
                if isinstance(refused, WrongCode):
                    self._wrong_code(request, user)
                form.add_error("code", str(refused))
            else:
                with transaction.atomic():
                    codes = new_recovery_codes(user)
                    audit.record(request, "make_recovery_codes", row=user)
                return self._shown_codes(request, codes)
        left = RecoveryCode.objects.filter(user=user, used_at=None).count()
        return self._page(
            request, "admin/second_factor.html", title=_("Second factor"), form=_focused(form), left=left, is_in=True
        )

    def _shown_codes(self, request: HttpRequest, codes: list[str]) -> HttpResponse:
        onward = request.session.pop("onward", reverse("admin:index"))
        return self._page(
            request, "admin/recovery_codes.html", title=_("Your recovery codes"), codes=codes, onward=onward
        )

    def locked_out(self, request: HttpRequest) -> HttpResponse:
        """The same page whether the name exists or not."""
        page = self._page(request, "admin/locked_out.html", title=_("Locked for a while"), minutes=lockout.minutes())
        page.status_code = 429
        page.headers["Retry-After"] = str(lockout.minutes() * 60)
        return page

    def _page(self, request: HttpRequest, template: str, **facts: Any) -> TemplateResponse:
        context = {**self.each_context(request), "subtitle": None, **facts}
        return TemplateResponse(request, template, context, headers={"Cache-Control": "no-store"})

    def logout(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if request.method == "POST" and isinstance(request.user, User):
            with transaction.atomic():
                audit.record(request, "sign_out", row=request.user)
        return super().logout(request, extra_context)

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        with transaction.atomic():
            answer = super().password_change(request, extra_context)
            if request.method == "POST" and answer.status_code == 302:
                audit.record(request, "change_own_password", row=request.user)  # type: ignore[arg-type]
        return answer


def _focused(form: forms.Form) -> forms.Form:
    next(iter(form.fields.values())).widget.attrs["autofocus"] = True
    return form
