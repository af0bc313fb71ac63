"""The edge that speaks JSON: strict reading, refusals as problems (RFC 9457), lists in pages. No business word in it.

What a client sends is read by small functions, each of which gives a value or refuses it. A body or a query is a dict
of such members, and nothing that is not in the dict is let through.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from datetime import date, datetime
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, TypeVar
from uuid import UUID

import structlog
from django.core.exceptions import SuspiciousOperation
from django.core.signing import BadSignature, Signer
from django.db import InterfaceError, OperationalError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, UnreadablePostError
from django.urls import resolve
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.views import defaults
from django.views.decorators.csrf import csrf_exempt
from rest_framework.views import APIView

from config.errors import NotFound, Refused
from config.ids import parse_id, schema_of
from config.money import MOST_FEN

logger = structlog.get_logger("api")

PREFIX = "/api/v1/"
# Where every code is explained; a problem's `type` is this and the code.
CATALOGUE = PREFIX + "errors"
MOST_BYTES = 64 * 1024
MOST_ROWS = 200
ROWS = 50
# A body of wrong members must not become an answer many times its size.
_MOST_FAULTS = 20


class BadRequest(Refused):
    status = 400
    text = _("The request is malformed.")
    remedy = _("Correct the address and the body's length.")


class MethodNotAllowed(Refused):
    status = 405
    text = _("This address answers %(methods)s only.")
    remedy = _("Use a method that the header Allow names.")


class LengthRequired(Refused):
    status = 411
    text = _("Send the body with its Content-Length.")
    remedy = _("Send a Content-Length instead of chunks.")


class BodyTooLarge(Refused):
    status = 413
    text = _("A body has at most 64 KiB.")
    remedy = _("Send less at once.")


class ContentTypeNotJson(Refused):
    status = 415
    text = _("Send the body as application/json in UTF-8.")
    remedy = _("Set the header Content-Type to application/json.")


class BodyNotJson(Refused):
    status = 400
    text = _("The body is not a JSON document (RFC 8259).")
    remedy = _("Send one JSON document, without NaN or Infinity.")


class DuplicateMember(Refused):
    status = 400
    text = _("An object in the body has two members of one name.")
    remedy = _("Name each member once.")


class NestedTooDeep(Refused):
    status = 400
    text = _("The body is nested too deep.")
    remedy = _("Send what the document describes: nothing of it is nested deep.")


class CursorNotValid(Refused):
    status = 400
    text = _("The cursor is not one that this list gave out for these filters.")
    remedy = _("Begin again at the first page, and send a cursor as it was given.")


class Failure(Refused):
    status = 500
    text = _("Something went wrong here. It has been recorded under the request's id.")
    remedy = _("Send the same request again, with the same Idempotency-Key; if it stays, tell us the request's id.")
    can_be_sent_again = True


class Unavailable(Refused):
    status = 503
    text = _("Not possible at this moment. Send the same request again, with the same Idempotency-Key.")
    remedy = _("Wait as long as Retry-After says, then send the same request with the same Idempotency-Key.")
    can_be_sent_again = True


class Fault(NamedTuple):
    """What is wrong with one member; ``pointer`` is a JSON pointer (RFC 6901), or ``?name`` in a query."""

    pointer: str
    code: str
    detail: str | Promise


class InvalidInput(Refused):
    """Says of every member what is wrong with it, not only of the first."""

    status = 400
    text = _("The request has members that cannot be accepted: see errors.")
    remedy = _("Correct each member that errors points at.")

    def __init__(self, *faults: Fault) -> None:
        super().__init__()
        self.faults = faults


# Reading ------------------------------------------------------------------------------------------------------------

Read = Callable[[Any], Any]
Schema = dict[str, Any]


class Reader:
    """A function that reads, and what the contract tells of the values that it accepts."""

    __slots__ = ("_read", "schema")

    def __init__(self, read: Read, schema: Schema) -> None:
        self._read = read
        self.schema = schema

    def __call__(self, value: Any) -> Any:
        return self._read(value)


def reads(schema: Schema) -> Callable[[Read], Reader]:
    """Said beside the code that reads: the contract is made of it."""
    return lambda read: Reader(read, schema)


def schema_read(read: Read) -> Schema:
    """What the contract tells of it; nothing, where nothing was said."""
    return read.schema if isinstance(read, Reader) else {}


class Member(NamedTuple):
    """How a member is read, and whether it may be left out."""

    read: Read
    required: bool = True


def optional(read: Read) -> Member:
    return Member(read, required=False)


def required(read: Read) -> Member:
    return Member(read)


def wrong(code: str, detail: str | Promise) -> InvalidInput:
    return InvalidInput(Fault("", code, detail))


def integer(*, least: int = 1, most: int = MOST_FEN) -> Read:
    """A JSON integer: no float, text or boolean."""

    @reads({"type": "integer", "minimum": least, "maximum": most})
    def read(value: Any) -> int:
        if type(value) is not int:
            raise wrong("WrongType", _("This must be an integer."))
        if value < least:
            raise wrong("TooSmall", _("This must be at least %(least)s.") % {"least": least})
        if value > most:
            raise wrong("TooLarge", _("This must be at most %(most)s.") % {"most": most})
        return value

    return read


def digits(*, least: int, most: int) -> Read:
    """The integer of a query parameter, in ASCII digits."""
    in_range = integer(least=least, most=most)

    @reads(schema_read(in_range))
    def read(value: Any) -> int:
        if not (value.isascii() and value.isdigit()):
            raise wrong("WrongType", _("This must be an integer."))
        return in_range(_to_int(value))

    return read


@reads({"type": "boolean"})
def boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise wrong("WrongType", _("This must be true or false."))
    return value


# Control characters, among them NUL that PostgreSQL cannot store, and halves of surrogate pairs that UTF-8 cannot.
_CONTROL = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
_UNUSABLE = re.compile(rf"[{_CONTROL}\ud800-\udfff]")
# The same as JSON Schema says it, where strings have no halves.
_ONE_LINE = rf"^([^\s{_CONTROL}]([^{_CONTROL}]*[^\s{_CONTROL}])?)?$"


def text(*, most: int, least: int = 1) -> Read:
    """One line of text of so many characters, without blanks around it."""

    @reads({"type": "string", "minLength": least, "maxLength": most, "pattern": _ONE_LINE})
    def read(value: Any) -> str:
        if type(value) is not str:
            raise wrong("WrongType", _("This must be a string."))
        if _UNUSABLE.search(value):
            raise wrong("UnusableCharacter", _("This has a control character or half of a surrogate pair."))
        if len(value) < least:
            raise wrong("TooShort", _("This must have at least %(least)s characters.") % {"least": least})
        if len(value) > most:
            raise wrong("TooLong", _("This must have at most %(most)s characters.") % {"most": most})
        if value != value.strip():
            raise wrong("BlanksAround", _("This must not begin or end with a blank."))
        return value

    return read


def choice(values: Collection[str]) -> Read:
    @reads({"type": "string", "enum": list(values)})
    def read(value: Any) -> str:
        if type(value) is not str or value not in values:
            raise wrong("UnknownValue", _("This must be one of %(values)s.") % {"values": ", ".join(values)})
        return value

    return read


_MOMENT = re.compile(
    r"(20[0-9]{2})-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})"
)


@reads({"type": "string", "format": "date-time", "pattern": f"^{_MOMENT.pattern}$"})
def moment(value: Any) -> datetime:
    """A date and time of this century with its offset (RFC 3339)."""
    if type(value) is not str:
        raise wrong("WrongType", _("This must be a string."))
    # In a query an unescaped plus sign arrives as a blank, and a blank can stand for nothing else here.
    value = value.replace(" ", "+")
    if _MOMENT.fullmatch(value):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            pass  # 30 February, hour 24: refused below like whatever has another form
    raise wrong("NotAMoment", _("This must be a date and time with offset (RFC 3339), like 2026-11-21T10:00:00+08:00."))


_DAY = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}")


@reads({"type": "string", "format": "date", "pattern": f"^{_DAY.pattern}$"})
def day(value: Any) -> date:
    """A calendar date of this century (ISO 8601)."""
    if type(value) is not str:
        raise wrong("WrongType", _("This must be a string."))
    if _DAY.fullmatch(value):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass  # 30 February: refused below like whatever has another form
    raise wrong("NotADate", _("This must be a date, like 2026-11-21."))


def identity(prefix: str) -> Read:
    """The UUID behind ``crd_…``."""

    @reads(schema_of(prefix))
    def read(value: Any) -> UUID:
        found = parse_id(prefix, value)
        if found is None:
            raise wrong("NotAnId", _("This must be an id that begins with %(prefix)s_.") % {"prefix": prefix})
        return found

    return read


def naming(prefix: str) -> Read:
    """The id of something in a body. Whatever is none is found as little as an unknown one, so finding refuses it."""
    return Reader(text(most=64), schema_of(prefix))


def array(read_one: Read, *, most: int) -> Read:
    """An array of one to so many members, each read alike."""

    @reads({"type": "array", "items": schema_read(read_one), "minItems": 1, "maxItems": most})
    def read(value: Any) -> list[Any]:
        if type(value) is not list:
            raise wrong("WrongType", _("This must be an array."))
        if not value:
            raise wrong("TooShort", _("This must have at least one member."))
        if len(value) > most:
            raise wrong("TooLong", _("This must have at most %(most)s members.") % {"most": most})
        found, faults = [], []
        for at, one in enumerate(value):
            try:
                found.append(read_one(one))
            except InvalidInput as refusal:
                faults += [fault._replace(pointer=f"/{at}{fault.pointer}") for fault in refusal.faults]
        if faults:
            raise InvalidInput(*faults[:_MOST_FAULTS])
        return found

    return read


_NAME = re.compile(r"[a-z_]{1,40}")


def record(members: Mapping[str, Member]) -> Read:
    """An object with these members and no others."""

    @reads(
        {
            "type": "object",
            "properties": {name: schema_read(member.read) for name, member in members.items()},
            "required": [name for name, member in members.items() if member.required],
            "additionalProperties": False,
        }
    )
    def read(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise wrong("WrongType", _("This must be an object."))
        faults = [
            # Only what looks like a name is given back: a secret could stand here by mistake.
            Fault(f"/{name}" if _NAME.fullmatch(name) else "", "UnknownMember", _("There is no such member."))
            for name in value
            if name not in members
        ]
        found = {}
        for name, member in members.items():
            if name in value:
                try:
                    found[name] = member.read(value[name])
                except InvalidInput as refusal:
                    faults += [fault._replace(pointer=f"/{name}{fault.pointer}") for fault in refusal.faults]
            elif member.required:
                faults.append(Fault(f"/{name}", "Missing", _("This is required.")))
        if faults:
            raise InvalidInput(*faults[:_MOST_FAULTS])
        return found

    return read


def _to_int(digits: str) -> int:
    # Thousands of digits would take their time, and nothing accepts a number as long as this.
    if len(digits) > 20:
        return -(10**20) if digits.startswith("-") else 10**20
    return int(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise DuplicateMember()
    return found


def _no_constant(name: str) -> Any:
    raise BodyNotJson()  # NaN and Infinity, which Python would read


def parse(document: bytes) -> Any:
    """A JSON document, strictly.

    :raises BodyNotJson, DuplicateMember, NestedTooDeep:
    """
    try:
        return json.loads(document.decode(), object_pairs_hook=_object, parse_int=_to_int, parse_constant=_no_constant)
    except RecursionError:
        raise NestedTooDeep() from None
    except ValueError:  # of the decoding or of the JSON
        raise BodyNotJson() from None


REFUSED_BODIES = (
    ContentTypeNotJson, LengthRequired, BodyTooLarge, BodyNotJson, DuplicateMember, NestedTooDeep, InvalidInput,
)  # fmt: skip


def read_body(request: HttpRequest, members: Mapping[str, Member]) -> dict[str, Any]:
    """The members of the body, and no query beside it.

    :raises ContentTypeNotJson, LengthRequired, BodyTooLarge, BodyNotJson, DuplicateMember, NestedTooDeep, InvalidInput:
    """
    if request.META.get("QUERY_STRING"):
        read_query(request, {})
    charset = (request.content_params or {}).get("charset", "utf-8")
    if request.content_type != "application/json" or charset.lower() not in ("utf-8", "utf8"):
        raise ContentTypeNotJson()
    length = request.META.get("CONTENT_LENGTH") or ""
    if not length and request.META.get("HTTP_TRANSFER_ENCODING"):
        raise LengthRequired()
    if length.isdigit() and int(length) > MOST_BYTES:
        raise BodyTooLarge()
    try:
        body = request.body
    except UnreadablePostError:
        raise BadRequest() from None
    if length.isdigit() and len(body) < int(length):
        raise BadRequest()  # the line went dead, and what came may still look whole
    return record(members)(parse(body))


def read_query(request: HttpRequest, members: Mapping[str, Member]) -> dict[str, Any]:
    """The query parameters, each given once.

    :raises InvalidInput: one is unknown, given twice or not to be accepted.
    """
    return _read_parameters(_parameters(request), members)


def _parameters(request: HttpRequest) -> dict[str, str]:
    given = request.GET
    if twice := [name for name in given if len(given.getlist(name)) > 1]:
        raise InvalidInput(*(Fault("", "Duplicate", _("A query parameter is given twice.")) for _name in twice[:1]))
    return given.dict()


def _read_parameters(given: Mapping[str, str], members: Mapping[str, Member]) -> dict[str, Any]:
    try:
        return record(members)(given)
    except InvalidInput as refusal:
        raise InvalidInput(*(fault._replace(pointer="?" + fault.pointer[1:]) for fault in refusal.faults)) from None


# Lists --------------------------------------------------------------------------------------------------------------

_signer = Signer(salt="config.api.cursor")


LIMIT = optional(digits(least=1, most=MOST_ROWS))


class Asked(NamedTuple):
    """What part of which list is asked for; a cursor brings its filters along."""

    filters: dict[str, Any]
    limit: int
    after: UUID | None
    cursor: Callable[[UUID], str]


def read_list(request: HttpRequest, filters: Mapping[str, Member], *, asker: str) -> Asked:
    """Filters, limit and cursor of a list. ``asker`` keeps one asker's cursors from another's lists.

    :raises InvalidInput, CursorNotValid:
    """
    members = {**filters, "limit": LIMIT}
    given = _parameters(request)
    place = [asker, request.path]
    after = None
    if (cursor := given.pop("cursor", None)) is not None:
        try:
            # Signed, so what is in it was put there by us.
            kept_place, kept, last = _signer.unsign_object(cursor)
        except BadSignature:
            raise CursorNotValid() from None
        limit = given.pop("limit", None)
        if kept_place != place or (given and given != {k: v for k, v in kept.items() if k != "limit"}):
            raise CursorNotValid()
        given = kept if limit is None else {**kept, "limit": limit}
        after = UUID(last)
    found = _read_parameters(given, members)
    return Asked(
        filters=found,
        limit=found.pop("limit", ROWS),
        after=after,
        cursor=lambda last: _signer.sign_object([place, given, last.hex]),
    )


def page(rows: QuerySet[Any], asked: Asked) -> tuple[list[Any], str | None]:
    """The asked part of the rows, newest first, and the cursor of the next part if there is one.

    Ids are ordered by time, so what is added meanwhile comes before the first page and moves no other.
    """
    if asked.after is not None:
        rows = rows.filter(pk__lt=asked.after)
    found = list(rows.order_by("-pk")[: asked.limit + 1])
    if len(found) <= asked.limit:
        return found, None
    found.pop()
    return found, asked.cursor(found[-1].pk)


# Answering ----------------------------------------------------------------------------------------------------------


def dump(answer: object) -> str:
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":"))


class _Response(HttpResponse):
    """An answer after which something may be left to do that the asker need not wait for."""

    afterwards: Callable[[], object] | None = None

    def close(self) -> None:
        # The server closes an answer once it is sent.
        if self.afterwards is not None:
            try:
                self.afterwards()
            except Exception:
                logger.exception("what was left to do after an answer failed")
        super().close()


def after(response: HttpResponse, work: Callable[[], object]) -> None:
    """Do ``work`` once the answer is sent."""
    if isinstance(response, _Response):
        response.afterwards = work


def respond(body: str, *, status: int = 200, content_type: str = "application/json") -> HttpResponse:
    response = _Response(body, status=status, content_type=content_type)
    response.headers["Cache-Control"] = "no-store"
    return response


@lru_cache(maxsize=500)
def title(code: str) -> str:
    """``Card not active`` of ``CardNotActive``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", code).capitalize()


def problem(refusal: Refused, request: HttpRequest, **more: object) -> HttpResponse:
    """A refusal as the asker sees it (application/problem+json, RFC 9457)."""
    detail = str(refusal)
    if isinstance(refusal, InvalidInput):
        faults = refusal.faults
    else:
        faults = (Fault(refusal.pointer, refusal.code, detail),) if refusal.pointer is not None else ()
    response = respond(
        dump(
            {
                "type": f"{CATALOGUE}#{refusal.code}",
                "title": title(refusal.code),
                "status": refusal.status,
                "detail": detail,
                "code": refusal.code,
                "request_id": getattr(request, "request_id", ""),
                **more,
                "errors": [fault._replace(detail=str(fault.detail))._asdict() for fault in faults],
            }
        ),
        status=refusal.status,
        content_type="application/problem+json",
    )
    if refusal.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    elif refusal.status == 405:
        response.headers["Allow"] = str(refusal.facts["methods"])
    elif refusal.status == 429:
        response.headers["Retry-After"] = str(refusal.facts["seconds"])
    elif refusal.status == 503:
        response.headers["Retry-After"] = "1"
    return response


Handler = TypeVar("Handler", bound=Callable[..., HttpResponse])


class Told(NamedTuple):
    """What the contract tells of a method's answers: the shape for each status, and what is refused."""

    answers: Mapping[int, Any]
    refuses: tuple[type[Refused], ...]


def answers(
    shape: Any, *, status: int = 200, or_also: Mapping[int, Any] | None = None, refuses: Collection[type[Refused]] = ()
) -> Callable[[Handler], Handler]:
    """Said above a method: which shape (a TypedDict, or for a list that of its rows) it answers, and what else."""

    def mark(handler: Handler) -> Handler:
        handler.told = Told({status: shape, **(or_also or {})}, tuple(refuses))  # type: ignore[attr-defined]
        return handler

    return mark


class Endpoint(APIView):
    """An address of the API: strict in, a problem out, whatever happens.

    REST framework's own way of a request (wrapping, negotiating, classes to parse, permit, throttle and render) offers
    choices that this API does not have, and every request would pay for them, so ``dispatch`` is ours.
    """

    http_method_names = ["get", "head", "post"]

    BODY: ClassVar[Mapping[str, Member]]
    """What a POST takes; ``EXAMPLE`` is one that works."""
    EXAMPLE: ClassVar[Mapping[str, Any]]
    QUERY: ClassVar[Mapping[str, Member]] = {}
    """What a GET takes that is no list."""
    FILTERS: ClassVar[Mapping[str, Any]]
    """What a list can be narrowed by."""
    changes: ClassVar[bool] = True
    """Whether a POST changes something, and therefore has an Idempotency-Key."""
    scopes: ClassVar[Mapping[str, str]] = {}
    refused_always: ClassVar[tuple[type[Refused], ...]] = (BadRequest, Failure, Unavailable)
    """The contract tells these of every method, and these of every one with an Idempotency-Key."""
    refused_keys: ClassVar[tuple[type[Refused], ...]] = ()

    def admit(self, request: HttpRequest) -> None:
        """Find out who asks, or refuse."""
        raise NotImplementedError

    def permit(self, request: HttpRequest) -> None:
        """Let who was admitted ask this, or refuse."""

    def finish(self, response: HttpResponse) -> HttpResponse:
        """Add what stands on every answer of this address."""
        return response

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return self.finish(self._answer(request, **kwargs))

    def _answer(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        try:
            self.admit(request)
            if "\0" in request.path:
                raise BadRequest()
            name = (request.method or "").lower()
            handler = getattr(self, name, None) if name in self.http_method_names else None
            if handler is None:
                raise MethodNotAllowed(methods=", ".join(self.allowed_methods))
            self.permit(request)
            return handler(request, **kwargs)
        except Refused as refusal:
            return self.refuse(refusal, request)
        except SuspiciousOperation:
            return problem(BadRequest(), request)
        except (OperationalError, InterfaceError) as error:
            logger.warning("the database did not answer", problem=str(error))
            return problem(Unavailable(), request)
        except Exception:
            logger.exception("failure")
            return problem(Failure(), request)

    def refuse(self, refusal: Refused, request: HttpRequest) -> HttpResponse:
        return problem(refusal, request)


class Door:
    """Lets a request of the API past what only pages need: sessions, forms, who has signed in, messages."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if not request.path_info.startswith(PREFIX):
            return self.get_response(request)
        request.get_host()  # refuses a host that is none of ours
        match = request.resolver_match = resolve(request.path_info)
        response: HttpResponse = match.func(request, *match.args, **match.kwargs)
        if hasattr(response, "render"):
            response = response.render()
        # What CommonMiddleware does for pages: without it the answer would come in chunks.
        response.headers.setdefault("Content-Length", str(len(response.content)))
        return response


@csrf_exempt  # it refuses anyway, and not with a page
def nowhere(request: HttpRequest, **_kwargs: object) -> HttpResponse:
    """Every address below the API's that is none of its own."""
    return problem(NotFound(), request)


# Django's own errors, raised before or outside a view: a page for people, a problem for programs.


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if request.path.startswith("/api/"):
        return problem(BadRequest(), request)
    return defaults.bad_request(request, exception)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if request.path.startswith("/api/"):
        return problem(NotFound(), request)
    return defaults.page_not_found(request, exception)


def failure(request: HttpRequest) -> HttpResponse:
    if request.path.startswith("/api/"):
        return problem(Failure(), request)
    return defaults.server_error(request)
