"""Edges that every partner system has: what cannot be believed, the file of a day, the order to misbehave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import date
from typing import Any

from django import forms
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect

from config import messages
from config.misbehaviour import Behaviour


class DateInPath:
    """``<date:…>`` in an address."""

    regex = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"

    def to_python(self, value: str) -> date:
        return date.fromisoformat(value)

    def to_url(self, value: date) -> str:
        return value.isoformat()


@login_required
def own_desk(request: HttpRequest) -> HttpResponse:
    """To the desk of the partner whose staff is asking."""
    theirs = request.user.has_perm("points_system.change_behaviour")
    return redirect("points_system:desk" if theirs else "insurer:desk")


def mistrusted(fault: messages.Mistrusted, *, keys: Sequence[str]) -> HttpResponse:
    """The signed answer to a message that is not acted upon."""
    raw, headers = messages.respond(
        keys=keys, in_reply_to="", request_no="", result=messages.REJECTED, code=fault.code, text=fault.text
    )
    return HttpResponse(raw, headers=headers, status=401)


def signed_file(
    request: HttpRequest, *, keys: Sequence[str], write: Callable[[str], Iterator[bytes]]
) -> HttpResponseBase:
    """A file for whoever signs the request's method and path; ``write`` takes the request's message id."""
    try:
        message_id = messages.verify(keys=keys, headers=request.headers, content=f"GET {request.path}".encode())
    except messages.Mistrusted as fault:
        return mistrusted(fault, keys=keys)
    return StreamingHttpResponse(write(message_id), content_type="text/csv; charset=utf-8")


def behave(request: HttpRequest, *, keys: Sequence[str], form: type[forms.ModelForm[Any]]) -> HttpResponse:
    """Set the behaviour by a signed message of type BEHAVIOUR; what its body leaves out goes back to usual."""
    try:
        asked = messages.receive(raw=request.body, headers=request.headers, keys=keys)
    except messages.Mistrusted as fault:
        return mistrusted(fault, keys=keys)
    model: type[Behaviour] = form._meta.model
    usual = {field.name: field.get_default() for field in model._meta.concrete_fields if field.name in model.FORM}
    filled = form({**usual, **asked.body}, instance=model._default_manager.get(pk=1))
    if asked.type != "BEHAVIOUR" or not filled.is_valid():
        return JsonResponse(filled.errors, status=400)
    filled.save()
    return JsonResponse({"kind": filled.instance.kind})
