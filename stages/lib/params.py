"""Parameters: their types, and the check of a block of params.yaml against the annotations of what takes it."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, NotRequired, get_args

import yaml
from annotated_types import Ge, Gt, Le, Len, MinLen
from pydantic import AfterValidator, BeforeValidator, ConfigDict, TypeAdapter, ValidationError, ValidationInfo, with_config
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict


def block_of(target: Callable, *given: str, null: tuple[str, ...] = ()) -> Any:
    """The type of a block in a block: a mapping whose keys are the arguments of `target`. It stays a mapping.

    Args:
        given: arguments of `target` that do not come from the block.
        null: those that may be null in the block, to be filled in later.
    """

    def check(value: Any, info: ValidationInfo) -> Any:
        name = ".".join(filter(None, [info.context, info.field_name]))
        empty = {key for key in null if isinstance(value, dict) and value.get(key, 0) is None}
        kept = {key: value[key] for key in value if key not in empty} if empty else value
        checked(target, kept, name, {*given, *empty})
        return value

    return Annotated[Any, BeforeValidator(check)]


def having(**kinds: Any) -> Any:
    """The type of another stage's block, of which these keys are used: `having(tasks=Names)`. It stays a mapping."""

    adapter = _adapter(kinds)

    def check(value: Any, info: ValidationInfo) -> Any:
        require(isinstance(value, dict), f"params.yaml: {info.field_name} is {value!r:.200}; it must be a mapping")
        _validated(adapter, kinds, {key: value[key] for key in kinds if key in value}, info.field_name)
        return value

    return Annotated[Any, BeforeValidator(check)]


def different(values: list) -> list:
    """For a list of texts or numbers, which need not have been checked yet."""
    if len(set(map(repr, values))) < len(values):
        raise PydanticCustomError("different", "a list that holds each value once")
    return values


def _ordered(ends: list) -> list:
    if not ends[0] <= ends[1]:
        raise PydanticCustomError("ordered", "two numbers, the smaller one first")
    return ends


def span(kind: Any) -> Any:
    """The type of a range, [least, greatest]."""
    return Annotated[list[kind], Len(2, 2), AfterValidator(_ordered)]


LARGEST = 2**32 - 1     # of all numbers in params.yaml: what is larger is a slip, and would never end
Seed = Annotated[int, Ge(0)]
Seeds = Annotated[list[Seed], Len(1), AfterValidator(different)]
Names = Annotated[list[Annotated[str, MinLen(1)]], AfterValidator(different)]
Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
FractionSpan = span(Fraction)
PositiveSpan = span(Positive)

# What a value must be, by the type of pydantic's error; for any other type pydantic's own words.
WORDS = {
    "int_type": "a whole number", "int_from_float": "a whole number", "float_type": "a number", "string_type": "a text",
    "bool_type": "true or false", "list_type": "a list", "dict_type": "a mapping", "none_required": "null",
    "finite_number": "a finite number", "greater_than": "above {gt:g}", "greater_than_equal": "{ge:g} or more",
    "less_than": "below {lt:g}", "less_than_equal": "{le:g} or less", "literal_error": "{expected}",
    "too_short": "a list of length {min_length} or more", "too_long": "a list of length {max_length} or less",
    "string_too_short": "a text that is not empty",
}


class UserError(Exception):
    """A mistake of the user's: one sentence that names the file or parameter and what to do about it."""


def require(condition: bool, sentence: str) -> None:
    """Raise UserError(sentence) unless the condition holds."""
    if not condition:
        raise UserError(sentence)


def refuse_aliases(path: Path = Path("params.yaml")) -> None:
    """Raise UserError if the file has YAML aliases: ten lines of them can stand for more values than any memory holds."""
    try:
        for event in yaml.parse(path.read_bytes(), Loader=yaml.CSafeLoader):
            require(not isinstance(event, yaml.AliasEvent), f"{path}, line {event.start_mark.line + 1} has a YAML alias; write "
                    "the value itself there")
    except (OSError, yaml.YAMLError):
        return                                                          # DVC says what is wrong


def from_params(target: Callable, block: dict, name: str, **given: Any) -> Any:
    """Call `target` (a class or function) with the keys of a params block as keyword arguments.

    Args:
        target: its arguments are annotated with the types and ranges of the keys.
        block: a block of params.yaml.
        name: of the block, for the sentence that the user reads: `finetune.views`.
        given: arguments that do not come from the block.

    Raises:
        UserError: the block is no mapping, an unknown key, a missing key, or a value that is not of its key's type or range.
    """
    return target(**given, **checked(target, block, name, given))


def checked(target: Callable, block: dict, name: str, given: Mapping | set = frozenset()) -> dict:
    """The keyword arguments that `target` takes from a params block. Arguments and errors as in `from_params`."""
    require(isinstance(block, dict), f"params.yaml: {name} is {block!r:.200}; it must be a mapping")
    return _validated(*_of_signature(target, frozenset(given)), block, name)


@cache
def _of_signature(target: Callable, given: frozenset[str]) -> tuple[TypeAdapter, dict[str, Any]]:
    """The check of a block whose keys are the arguments of `target` but for those given, and the kind of each."""
    kinds = {}
    for key, argument in inspect.signature(target).parameters.items():
        if key not in given:
            kind = Any if argument.annotation is argument.empty else argument.annotation
            kinds[key] = kind if argument.default is argument.empty else NotRequired[kind]
    return _adapter(kinds), kinds


def _adapter(kinds: dict[str, Any]) -> TypeAdapter:
    rules = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
    return TypeAdapter(with_config(rules)(TypedDict("Block", kinds)))


def _validated(adapter: TypeAdapter, kinds: dict[str, Any], block: dict, name: str) -> dict:
    """The block, if its values are of the kinds."""
    for path, number in _numbers(block):
        place = ".".join(filter(None, [name, *path]))
        require(not abs(number) > LARGEST, f"params.yaml: {place} is {number}; it must be {LARGEST:,} or less")
    try:
        return adapter.validate_python(block, context=name)
    except ValidationError as error:
        raise UserError("params.yaml: " + _sentence(error.errors(), block, name, kinds)) from None


def _numbers(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    """All numbers in a block, with the keys that lead to them."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from _numbers(part, (*path, str(key)))
    if isinstance(value, int | float):
        yield path, value


def _sentence(errors: list[dict], block: dict, name: str, kinds: dict[str, Any]) -> str:
    """The first mistake in plain words: which key, its value, and what it must be."""
    path, value = _place(errors[0]["loc"], block)
    full = ".".join(filter(None, [name, *map(str, path)]))
    if errors[0]["type"] == "missing":
        return f"{full} is missing"
    if errors[0]["type"] == "extra_forbidden":
        return f"{full} is not a parameter; choose from {', '.join(sorted(kinds))}"
    same = [error for error in errors if _place(error["loc"], block)[0] == path]
    words = [WORDS.get(error["type"], error["msg"]).format(**error.get("ctx", {})) for error in same]
    if len(path) == 1 and NoneType in get_args(kinds[path[0]]):
        words.append("null")
    return f"{full} is {value!r:.200}; it must be {' or '.join(dict.fromkeys(words))}"


def _place(location: tuple, block: dict) -> tuple[list, Any]:
    """The keys that lead to a mistake, without pydantic's marks of a union's branches, and the value there."""
    path, value = [], block
    for key in location:
        inside = key in value if isinstance(value, dict) else isinstance(value, list) and isinstance(key, int)
        if inside or not path:
            path.append(key)
            value = value.get(key) if isinstance(value, dict) else value[key]
    return path, value
