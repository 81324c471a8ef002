"""Checks settings against the signature of the class or function that will get them.

So that an algorithm, a model or an adapter is configured by what its constructor says, wherever
it comes from, and a typo is found before anything is built.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

from pydantic import ConfigDict, Strict, TypeAdapter, ValidationError

from sim_rl_plugin.errors import UserError, nearest
from sim_rl_plugin.registry import resolve_class

_NESTED_PROVIDED = ("output_dim", "device")


@dataclass(frozen=True)
class Parameters:
    """The keyword parameters that a class or function understands.

    Attributes:
        annotations: Name to resolved annotation; ``Any`` where there is none or it cannot be resolved.
        required: Names without a default.
        accepts_any: Whether names beyond these are taken, too.
    """

    annotations: Mapping[str, Any]
    required: frozenset[str]
    accepts_any: bool


def check_arguments(
    target: Callable[..., Any],
    kwargs: Mapping[str, Any],
    path: str,
    *,
    provided: Collection[str] = (),
    also: Mapping[str, Any] | None = None,
    check_required: bool = True,
) -> None:
    """Check keyword arguments against a signature.

    A value that is a mapping with ``class_name`` is checked against that class in turn. Where a
    constructor passes ``**kwargs`` to its base class, the base's parameters count as well. A class whose
    settings hold more than its signature says checks the rest in a class method
    ``check_settings(settings, path)``, which is called last.

    Args:
        target: The class or function that will be called.
        kwargs: The arguments; not modified. Lists are taken for tuples, integers for floats; a bool
            is no number.
        path: Their key path, for messages (``"algorithm"``).
        provided: Parameters that the framework fills in and nobody may set.
        also: Further keys that are understood, with their types.
        check_required: Whether a parameter without a default must be among ``kwargs`` or ``provided``.

    Raises:
        UserError: A name is unknown, a value has the wrong type, or a parameter is missing.
    """
    parameters = parameters_of(target)
    annotations = {**parameters.annotations, **(also or {})}
    settable = [name for name in annotations if name not in provided]
    for name, value in kwargs.items():
        if name in provided and name in annotations:
            raise UserError(f"{_join(path, name)} is filled in by the framework and cannot be set")
        if name not in annotations:
            if not parameters.accepts_any:
                raise unknown_key(path, name, settable)
            continue
        check_value(annotations[name], value, _join(path, name))
    for name, value in kwargs.items():
        if isinstance(value, Mapping) and "class_name" in value:
            _check_nested(value, _join(path, name))
    if check_required:
        missing = sorted(parameters.required - set(kwargs) - set(provided))
        if missing:
            expected = describe(parameters.annotations[missing[0]])
            raise UserError(f"{_join(path, missing[0])} is missing: {_name_of(target)} needs {expected}")
    if hasattr(target, "check_settings"):
        target.check_settings(kwargs, path)


def _check_nested(cfg: Mapping[str, Any], path: str) -> None:
    found, kwargs = resolve_class(dict(cfg), path=path)
    # What else its owner fills in is the owner's business, so a missing argument cannot be judged here.
    check_arguments(found, kwargs, path, provided=_NESTED_PROVIDED, check_required=False)


def check_value(annotation: Any, value: Any, path: str) -> None:
    """Check one value against a type annotation.

    Raises:
        UserError: It does not fit; the message gives key path, what is expected, and what was found.
    """
    adapter = _adapter(annotation)
    if adapter is None:
        return
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        raise UserError(f"{path}: expected {_expectation(error, annotation)}, found {shorten(value)}") from error


def unknown_key(path: str, name: str, names: Collection[str]) -> UserError:
    """Return the error for a key that nobody understands.

    Args:
        path: Key path of the mapping that holds it, empty at the top.
        name: The key.
        names: The keys that would be understood there.
    """
    guess = nearest(name, names)
    if guess is not None:
        tail = f"did you mean {_join(path, guess)!r}?"
    else:
        tail = f"expected one of {', '.join(sorted(names))}" if names else f"{path!r} takes no settings"
    return UserError(f"unknown key {_join(path, name)!r}: {tail}")


def parameters_of(target: Callable[..., Any]) -> Parameters:
    """Return the keyword parameters of a class's constructor or of a function."""
    if not inspect.isclass(target):
        return _own_parameters(target, skip_first=False)[0]
    annotations: dict[str, Any] = {}
    required: set[str] = set()
    for owner in target.__mro__:
        constructor = owner.__dict__.get("__init__")
        if constructor is None:
            continue
        if owner is object or _is_torch_module(owner):
            # Neither takes arguments, though torch.nn.Module's signature says so.
            return Parameters(annotations, frozenset(required), False)
        own, has_kwargs = _own_parameters(constructor, skip_first=True)
        required |= own.required - set(annotations)
        annotations = {**own.annotations, **annotations}
        if not has_kwargs:
            return Parameters(annotations, frozenset(required), False)
        if not _passes_kwargs_on(constructor):
            return Parameters(annotations, frozenset(required), True)
    return Parameters(annotations, frozenset(required), False)


def _own_parameters(function: Callable[..., Any], skip_first: bool) -> tuple[Parameters, bool]:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return Parameters({}, frozenset(), True), True
    found = list(signature.parameters.values())[1 if skip_first else 0 :]
    named = [item for item in found if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)]
    has_kwargs = any(item.kind is item.VAR_KEYWORD for item in found)
    annotations = {item.name: _resolve_annotation(item.annotation, function) for item in named}
    required = frozenset(item.name for item in named if item.default is item.empty)
    return Parameters(annotations, required, has_kwargs), has_kwargs


def _resolve_annotation(annotation: Any, function: Callable[..., Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    if isinstance(annotation, str):
        try:
            return eval(annotation, getattr(inspect.unwrap(function), "__globals__", {}))
        except Exception:
            # A name that only a type checker imports: the constructor itself must judge the value.
            return Any
    return annotation


def _is_torch_module(owner: type) -> bool:
    return owner.__module__ == "torch.nn.modules.module" and owner.__name__ == "Module"


def _passes_kwargs_on(constructor: Callable[..., Any]) -> bool:
    """Return whether a constructor hands its ``**kwargs`` to another ``__init__``.

    If its source cannot be read, it is taken to do so, which is the stricter reading.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(constructor))))
    except (OSError, TypeError, SyntaxError):
        return True
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return any(
        isinstance(call.func, ast.Attribute)
        and call.func.attr == "__init__"
        and any(keyword.arg is None for keyword in call.keywords)
        for call in calls
    )


def _adapter(annotation: Any) -> TypeAdapter[Any] | None:
    """Return a validator, or None for an annotation that pydantic cannot use."""
    strict = _strict(annotation)
    try:
        return TypeAdapter(strict, config=ConfigDict(arbitrary_types_allowed=True))
    except Exception:
        pass
    try:
        # A pydantic or dataclass type brings its own settings and refuses ours.
        return TypeAdapter(strict)
    except Exception:
        return None


def _strict(annotation: Any) -> Any:
    """Return the annotation with strict scalars in lenient containers.

    Lenient scalars would take "1" and True for an integer; strict containers would refuse a list,
    which is all that YAML has, for a tuple.
    """
    if annotation in (int, float, str, bool):
        return Annotated[annotation, Strict()]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        return Union[tuple(_strict(argument) for argument in arguments)]  # noqa: UP007
    if origin is Annotated:
        return Annotated[(_strict(arguments[0]), *annotation.__metadata__)]
    if inspect.isclass(origin) and arguments and not issubclass(origin, Callable):  # type: ignore[arg-type]
        try:
            return origin[tuple(_strict(argument) for argument in arguments)]  # type: ignore[index]
        except TypeError:
            return annotation
    return annotation


_SCALARS = {int: "an integer", float: "a number", str: "a string", bool: "true or false", type(None): "null"}
_PLURALS = {int: "integers", float: "numbers", str: "strings", bool: "booleans"}


def describe(annotation: Any) -> str:
    """Return an annotation in words (``"a list of integers"``)."""
    if annotation is Any:
        return "a value"
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return describe(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(argument) for argument in arguments))
    if origin is Literal:
        return "one of " + ", ".join(repr(argument) for argument in arguments)
    container = origin or annotation
    if not inspect.isclass(container):
        return str(annotation).replace("typing.", "")
    if issubclass(container, Mapping):
        return "a mapping"
    if issubclass(container, tuple) and arguments and Ellipsis not in arguments:
        same = len(set(arguments)) == 1
        return f"a list of {len(arguments)} {_plural(arguments[0]) if same else 'values'}"
    if issubclass(container, Collection) and not issubclass(container, str | bytes):
        return f"a list of {_plural(arguments[0])}" if arguments else "a list"
    return f"a {container.__name__}"


def _plural(annotation: Any) -> str:
    if isinstance(annotation, type) and annotation in _PLURALS:
        return _PLURALS[annotation]
    return f"values, each {describe(annotation)}"


_LIMITS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")


def _expectation(error: ValidationError, annotation: Any) -> str:
    """Return what was expected: the limit that a number broke, or else the type in words."""
    problems = error.errors(include_url=False)
    broken = [problem for problem in problems if problem["type"] in _LIMITS]
    if len(broken) == len(problems):
        return "a number " + broken[0]["msg"].removeprefix("Input should be ").replace(
            "a finite number", "that is finite"
        )
    return describe(annotation)


def shorten(value: Any) -> str:
    """Return a value for a message, cut to a line's length."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _name_of(target: Any) -> str:
    return getattr(target, "__qualname__", repr(target))
