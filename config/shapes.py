"""The words that answers are declared in.

An answer is a TypedDict of these and of plain types. The type checker holds what is rendered to it, the tests hold what
was really sent to it, and the contract (config.contract) tells it to merchants' developers; nothing is said twice.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
    overload,
)
from zoneinfo import ZoneInfo

from config.ids import schema_of

Schema = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Term:
    """A kind of value that is explained once, under its name."""

    name: str
    schema: Schema


_identities: dict[str, Term] = {}


def identity(prefix: str, what: str) -> Term:
    """The id of a ``what``, which begins with the prefix; in an address it is called ``{what}_id``."""
    name = "".join(word.capitalize() for word in what.split("_")) + "Id"
    term = Term(name, {**schema_of(prefix), "description": f"The id of a {what.replace('_', ' ')}: opaque."})
    return _identities.setdefault(what, term)


def identity_in_address(parameter: str) -> Term | None:
    return _identities.get(parameter.removesuffix("_id"))


@overload
def moment(at: datetime, zone: ZoneInfo) -> str: ...
@overload
def moment(at: datetime | None, zone: ZoneInfo) -> str | None: ...
def moment(at: datetime | None, zone: ZoneInfo) -> str | None:
    """A ``Moment`` of an answer."""
    return None if at is None else at.astimezone(zone).isoformat()


Fen = Annotated[
    int,
    Term("Fen", {"type": "integer", "description": "Money in fen: ¥12,345.67 is `1234567`.", "examples": [1234567]}),
]
Amount = Annotated[
    int,
    Term(
        "Amount",
        {
            "type": "integer",
            "description": "So much in the card's `unit`: fen for `MONEY`, a number of uses or of days otherwise.",
            "examples": [40000],
        },
    ),
]
Moment = Annotated[
    str,
    Term(
        "Moment",
        {
            "type": "string",
            "format": "date-time",
            "description": "A date and time with offset (RFC 3339), in the merchant's time zone.",
            "examples": ["2026-11-21T10:00:00+08:00"],
        },
    ),
]
Day = Annotated[
    str,
    Term(
        "Day",
        {
            "type": "string",
            "format": "date",
            "description": "A calendar day where the merchant is.",
            "examples": ["2026-11-21"],
        },
    ),
]
Ratio = Annotated[
    str,
    Term(
        "Ratio",
        {
            "type": "string",
            "pattern": r"^[0-9]+(\.[0-9]+)?$",
            "description": "An exact number as a decimal text.",
            "examples": ["0.8"],
        },
    ),
]
Fraction = Annotated[
    str,
    Term(
        "Fraction",
        {
            "type": "string",
            "pattern": "^-?[0-9]+(/[0-9]+)?$",
            "description": "An exact figure in fen, as an integer or a fraction, before it is rounded.",
            "examples": ["175000/3"],
        },
    ),
]
Currency = Annotated[str, Term("Currency", {"type": "string", "enum": ["CNY"]})]
Last4 = Annotated[
    str,
    Term(
        "Last4",
        {
            "type": "string",
            "pattern": "^.{4}$",
            "description": "All that is told of a number or a code.",
            "examples": ["4158"],
        },
    ),
]

_PLAIN = {str: "string", int: "integer", bool: "boolean", NoneType: "null"}


def schema(hint: Any, components: dict[str, Schema]) -> Schema:
    """The JSON Schema of a declared type; what has a name of its own goes into ``components``."""
    origin, inside = get_origin(hint), get_args(hint)
    if is_typeddict(hint):
        return _component(hint, components)
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if origin is NotRequired:
        return schema(inside[0], components)
    if origin is list:
        return {"type": "array", "items": schema(inside[0], components)}
    if origin is Literal:
        return {"type": "string", "enum": list(inside)}
    if origin in (Union, UnionType):
        # Whatever may be missing is null; a text or a fen that may be missing is no other shape than one that may not.
        return {"anyOf": [schema(one, components) for one in inside]}
    if origin is Annotated:
        return _annotated(inside[0], inside[1:], components)
    if hint is Any:
        return {}
    raise TypeError(f"{hint} has no words in the contract")


def _annotated(hint: Any, said: tuple[Any, ...], components: dict[str, Schema]) -> Schema:
    found: Schema = {}
    for one in said:
        if isinstance(one, Term):
            if components.setdefault(one.name, one.schema) is not one.schema:
                raise TypeError(f"the contract has two things named {one.name}")
            found = {"$ref": f"#/components/schemas/{one.name}"}
        elif isinstance(one, type) and issubclass(one, Enum):
            found = {"type": "string", "enum": [str(member.value) for member in one]}
        else:
            found = {**(found or schema(hint, components)), "description": one}
    return found


def _component(shape: Any, components: dict[str, Schema]) -> Schema:
    name = shape.__name__.removesuffix("Shape")
    if name not in components:
        components[name] = {}  # it may speak of itself
        components[name].update(
            {
                "type": "object",
                **({"description": " ".join(shape.__doc__.split())} if shape.__doc__ else {}),
                "properties": {
                    member: schema(hint, components)
                    for member, hint in get_type_hints(shape, include_extras=True).items()
                },
                "required": [one for one in shape.__annotations__ if one in shape.__required_keys__],
            }
        )
    return {"$ref": f"#/components/schemas/{name}"}
