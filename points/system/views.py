"""The points system's edges: signed messages, the statement, and the desk where it is told how to behave."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from functools import partial

from django import forms
from django.conf import settings
from django.contrib import admin
from django.contrib import messages as notes
from django.contrib.auth.decorators import login_required, permission_required
from django.db.models import Count, Sum
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from config import messages, misbehaviour, partner_edges
from config.misbehaviour import Kind
from points.system import magic, posting, statement
from points.system.misbehaviour import BENDS
from points.system.models import Account, Behaviour, Lot, Message, Request


@csrf_exempt
@require_POST
def message(request: HttpRequest) -> HttpResponseBase:
    """A signed message; answered, signed, with what became of it – unless told to misbehave."""
    keys = settings.POINTS_SYSTEM_KEYS
    content = request.body
    try:
        asked = messages.receive(raw=content, headers=request.headers, keys=keys)
    except messages.Mistrusted as fault:
        return partner_edges.mistrusted(fault, keys=keys)
    if asked.type == "SIMULATION":
        return _told(asked, posting.simulate(asked, content=content, now=timezone.now()))
    if asked.type == "DEDUCTION_REQUEST" and asked.body.get("account") in magic.ACCOUNTS:
        if not magic.is_for_tests(asked.body):
            return _told(asked, posting.facts(posting.ACCOUNT_UNKNOWN))
        magic.make_ready(asked.body["account"], now=timezone.now())
        meant = magic.behaviour(asked.body)
        if meant is not None:
            return _misbehave(meant, asked, content)
    if asked.type in posting.MOVING:
        # One round trip for those that are many: the database itself looks how to behave.
        with suppress(posting.Misbehaves):
            return _told(asked, posting.answer(asked, content=content, now=timezone.now()))
    now = misbehaviour.towards(Behaviour, type=asked.type)
    if now.kind == Kind.GOOD:
        return _told(asked, posting.answer(asked, content=content, misbehaviour="", now=timezone.now()))
    return _misbehave(now, asked, content)


def _told(asked: messages.Message, facts: misbehaviour.Facts) -> HttpResponse:
    raw, headers = messages.respond(
        keys=settings.POINTS_SYSTEM_KEYS, in_reply_to=asked.message_id, request_no=asked.request_no, **facts
    )
    return HttpResponse(raw, headers=headers)


def _misbehave(now: Behaviour, asked: messages.Message, content: bytes) -> HttpResponseBase:
    keys = settings.POINTS_SYSTEM_KEYS
    nothing = misbehaviour.swallows(now)
    if nothing is not None:
        return nothing

    def act() -> misbehaviour.Facts:
        late = float(now.seconds) if now.kind == Kind.LATE else 0
        return posting.answer(asked, content=content, misbehaviour=now.kind, now=timezone.now(), late=late)

    if now.kind == Behaviour.Own.ACTS_LATE:
        misbehaviour.later(now, act)
        return misbehaviour.breaks_off()
    if now.kind == Behaviour.Own.PRETENDS:
        act = partial(posting.pretend, asked, content=content, now=timezone.now())
    facts = act()
    response, raw = misbehaviour.answer(now, message=asked, facts=facts, keys=keys, bends=BENDS)
    Message.objects.filter(message_id=asked.message_id, misbehaviour=now.kind).update(sent=raw)
    url = now.callback_url or settings.POINTS_SYSTEM_CALLBACK_URL
    if now.kind in (Kind.LATE, Behaviour.Own.DUPLICATE) and url:
        times = 2 if now.kind == Behaviour.Own.DUPLICATE else 1
        told = {"type": asked.type, **facts}
        misbehaviour.call_back(now, url=url, message=asked, body=told, keys=keys, times=times)
    return response


@require_GET
def statement_file(request: HttpRequest, accounting_date: date) -> HttpResponseBase:
    """The statement of one day; the request signs its method and path."""
    keys = settings.POINTS_SYSTEM_KEYS

    def write(message_id: str) -> Iterator[bytes]:
        return statement.write(accounting_date=accounting_date, in_reply_to=message_id, keys=keys)

    return partner_edges.signed_file(request, keys=keys, write=write)


class BehaviourForm(forms.ModelForm):
    type = forms.ChoiceField(
        label=_("For messages of type"),
        choices=[("", _("all"))] + [(type, type) for type in sorted(posting.TYPES)],
        required=False,
    )

    class Meta:
        model = Behaviour
        fields = Behaviour.FORM


@csrf_exempt
@require_POST
def behaviour(request: HttpRequest) -> HttpResponse:
    """Set the behaviour by a signed message."""
    return partner_edges.behave(request, keys=settings.POINTS_SYSTEM_KEYS, form=BehaviourForm)


@login_required
@permission_required("points_system.change_behaviour", raise_exception=True)
@require_http_methods(["GET", "POST"])
def desk(request: HttpRequest) -> HttpResponse:
    """Where staff of the points system see what it holds and choose how it behaves."""
    present = Behaviour.objects.get(pk=1)
    form = BehaviourForm(request.POST or None, instance=present)
    if request.method == "POST" and form.is_valid():
        form.save()
        notes.success(request, _("From now on: %(behaviour)s.") % {"behaviour": form.instance.get_kind_display()})
        return redirect("points_system:desk")
    figures = {
        "accounts": Account.objects.count(),
        "points": Lot.objects.filter(expires_date__gte=timezone.localdate()).aggregate(
            total=Sum("remaining", default=0)
        )["total"],
        "requests": Request.objects.values("type", "code").annotate(count=Count("pk")).order_by("type", "code"),
        "messages_log": Message.objects.order_by("-pk").defer("content", "answer", "sent")[:20],
    }
    context = {**admin.site.each_context(request), "title": _("Points system's desk"), "form": form, "present": present}
    return render(request, "points_system/desk.html", context | figures)
