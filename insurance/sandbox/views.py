"""The insurer's edges: signed messages, the bordereau, and the desk where it is told how to behave."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import date
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin
from django.contrib import messages as notes
from django.contrib.auth.decorators import login_required, permission_required
from django.db import IntegrityError, transaction
from django.db.models import Count
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from config import messages, misbehaviour, partner_edges
from config.misbehaviour import Kind
from insurance.sandbox import bordereau, underwriting
from insurance.sandbox.misbehaviour import BENDS
from insurance.sandbox.models import Behaviour, Item, Message, Policy

Facts = dict[str, Any]


@csrf_exempt
@require_POST
def message(request: HttpRequest) -> HttpResponseBase:
    """A signed message; answered, signed, with what became of it – unless told to misbehave."""
    keys = settings.INSURER_KEYS
    try:
        asked = messages.receive(raw=request.body, headers=request.headers, keys=keys)
    except messages.Mistrusted as fault:
        return partner_edges.mistrusted(fault, keys=keys)
    now = misbehaviour.towards(Behaviour, type=asked.type)
    nothing = misbehaviour.swallows(now)
    if nothing is not None:
        return nothing
    kept = Message(
        message_id=asked.message_id,
        type=asked.type[:20],
        request_no=asked.request_no,
        fingerprint=hashlib.sha256(messages.write_json(asked.body)).hexdigest(),
        request=request.body,
        misbehaviour="" if now.kind == Kind.GOOD else now.kind,
        received_at=timezone.now(),
    )
    facts = _acted(asked, kept, now)
    response, raw = misbehaviour.answer(now, message=asked, facts=facts, keys=keys, bends=BENDS)
    if kept.pk:
        Message.objects.filter(pk=kept.pk).update(answer=raw, result=facts["result"], code=facts["code"])
    url = now.callback_url or settings.INSURER_CALLBACK_URL
    if now.kind == Kind.LATE and url:
        misbehaviour.call_back(now, url=url, message=asked, body=facts["body"], keys=keys)
    return response


def _acted(asked: messages.Message, kept: Message, now: Behaviour) -> Facts:
    try:
        with transaction.atomic():
            kept.save()
    except IntegrityError:
        kept.pk = None
        return _rejected("3003", "replayed message_id")
    if asked.type == "ECHO":
        return _success({"time": timezone.now().isoformat()})
    try:
        if asked.type == "STATUS_QUERY":
            return _success({"items": underwriting.look_up(request_nos=asked.body.get("request_nos"))})
        if asked.type == "SIMULATION":
            return _success({"items": underwriting.simulate(body=asked.body, now=timezone.now())})
        if asked.type not in underwriting.TYPES:
            return _rejected("9999", "unknown type of message")
        if (
            Message.objects.filter(request_no=asked.request_no)
            .exclude(pk=kept.pk)
            .exclude(fingerprint=kept.fingerprint, type=asked.type)
            .exists()
        ):
            return _rejected(underwriting.REUSED, underwriting.TEXTS[underwriting.REUSED])
        refuses = now.kind == Behaviour.Own.REFUSE_SOME
        items = underwriting.post(
            type=asked.type,
            items=asked.body.get("items"),
            now=timezone.now(),
            refuse_every=now.every if refuses else 0,
            refuse_code=now.code,
        )
    except underwriting.NotItems:
        return _rejected("9999", "one to 500 items, each with a request_no")
    return _success({"items": items})


def _success(body: Facts) -> Facts:
    return {"result": messages.SUCCESS, "code": underwriting.ACCEPTED, "text": "", "body": body}


def _rejected(code: str, text: str) -> Facts:
    return {"result": messages.REJECTED, "code": code, "text": text, "body": {}}


@require_GET
def bordereau_file(request: HttpRequest, business_date: date) -> HttpResponseBase:
    """The bordereau of one day; the request signs its method and path."""
    keys = settings.INSURER_KEYS

    def write(message_id: str) -> Iterator[bytes]:
        return bordereau.write(business_date=business_date, in_reply_to=message_id, keys=keys)

    return partner_edges.signed_file(request, keys=keys, write=write)


class BehaviourForm(forms.ModelForm):
    type = forms.ChoiceField(
        label=_("For messages of type"),
        choices=[("", _("all"))] + [(type, type) for type in sorted({*underwriting.TYPES, "STATUS_QUERY"})],
        required=False,
    )

    class Meta:
        model = Behaviour
        fields = Behaviour.FORM


@csrf_exempt
@require_POST
def behaviour(request: HttpRequest) -> HttpResponse:
    """Set the behaviour by a signed message."""
    return partner_edges.behave(request, keys=settings.INSURER_KEYS, form=BehaviourForm)


@login_required
@permission_required("insurer.change_behaviour", raise_exception=True)
@require_http_methods(["GET", "POST"])
def desk(request: HttpRequest) -> HttpResponse:
    """Where staff of the insurer see what it holds and choose how it behaves."""
    present = Behaviour.objects.get(pk=1)
    form = BehaviourForm(request.POST or None, instance=present)
    if request.method == "POST" and form.is_valid():
        form.save()
        notes.success(request, _("From now on: %(behaviour)s.") % {"behaviour": form.instance.get_kind_display()})
        return redirect("insurer:desk")
    counts = {
        "policies": Policy.objects.filter(state=Policy.State.IN_FORCE).count(),
        "items": Item.objects.values("type", "code").annotate(count=Count("pk")).order_by("type", "code"),
        "messages_log": Message.objects.order_by("-pk").defer("request", "answer")[:20],
    }
    context = {**admin.site.each_context(request), "title": _("Insurer's desk"), "form": form, "present": present}
    return render(request, "insurer/desk.html", context | counts)
