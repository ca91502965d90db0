"""Finding experiments: file references, entry points, options, and the code they live in.

A reference is `model.py:Walk` (relative to the campaign file) or the name of a plug-in
(`staffa.experiment.plugins`). Workers import files from the campaign's
own snapshot, under a module name made of the snapshot's path, so that a model edited during
a run cannot leak into it and functions never travel by value.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import os
import sys
import sysconfig
import threading
import traceback
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from staffa.errors import ConfigError, PluginError, StaffaError, near
from staffa.experiment.parameters import Parameter
from staffa.experiment.plugins import WHOLE, load, loaded, offers, part_families
from staffa.experiment.protocol import Experiment

NEIGHBOURS = "__staffa_neighbours__"
"""Where a module keeps the digests of the files it imported from its own folder."""
_IMPORTING = threading.RLock()


@dataclass(frozen=True)
class Reference:
    """A parsed `use:`; `file` is empty for an installed plug-in."""

    text: str
    file: str
    attribute: str


def parse(text: str, field: str = "experiment") -> Reference:
    """Read a reference. Raises `PluginError` for a file reference without a class."""
    file, colon, attribute = text.rpartition(":")
    if not colon:
        if text.endswith(".py"):
            raise PluginError(f"{field}.use: {text!r} names a file but no class", f"use: {text}:<Class>")
        return Reference(text, "", text)
    if not file or not attribute.isidentifier():
        raise PluginError(f"{field}.use: {text!r} is not a reference", "write it as model.py:Class")
    return Reference(text, file, attribute)


def check_file(field: str, text: str, directory: Path) -> None:
    """Refuse a reference to a file of the workflow's that is not there; nothing is imported.

    Raises `ConfigError` that begins with the field.
    """
    file, _, name = text.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise ConfigError(f"{field}: {text!r} is not a reference", "write it as module.py:name")
    if not (directory / file).is_file():
        files: Any = [str(path.relative_to(directory)) for path in directory.glob("**/*.py")]
        raise ConfigError(f"{field}: {text!r}: there is no file {file!r} in {directory}", near(file, files))


def reference_of(cls: type, directory: Path) -> str:
    """Turn a class into a reference, so that Python users may pass the class itself.

    Raises `PluginError` for a class that lives in `__main__` or a notebook cell: it would
    travel by value and be compiled again in each task.
    """
    name = cls.__name__
    if cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
        raise PluginError(
            f"{cls.__qualname__} is defined in {cls.__module__}, where workers cannot import it",
            f"put it in a file:  %%writefile model.py\n  and use:           from model import {name}",
        )
    source = inspect.getsourcefile(cls)
    if source is None:
        raise PluginError(f"{cls.__qualname__} has no source file that could be kept with the results")
    with contextlib.suppress(ValueError):
        return f"{Path(source).resolve().relative_to(directory.resolve())}:{name}"
    raise PluginError(
        f"{cls.__qualname__} is defined in {source}, outside the campaign's folder {directory}",
        "move the file beside the campaign file, or install it as a plug-in (entry point staffa.experiments)",
    )


def load_class(text: str, directory: Path) -> type[Experiment]:
    """Import the class a reference names; `directory` is the workflow's folder or its snapshot."""
    found = _load_object(text, directory, "experiment")
    if not (isinstance(found, type) and issubclass(found, Experiment)):
        raise PluginError(f"{located(found)}experiment.use: {text!r} is not a subclass of staffa.Experiment")
    _check_methods(found)
    return found


def build(block: Mapping[str, Any], directory: Path, field: str = "experiment") -> Any:
    """Make the object a block describes: `use:` names the class, the other keys its options.

    Blocks nest: an option that is a mapping with `use:` is built first. The outermost one
    must be an Experiment. Raises `PluginError` naming the field, the value and near names.
    """
    text = block.get("use")
    if not isinstance(text, str):
        raise PluginError(f"{field}.use: {text!r} is not a reference", "write it as model.py:Class")
    found = load_class(text, directory) if field == "experiment" else _load_object(text, directory, field)
    options = {
        key: build(value, directory, f"{field}.{key}") if isinstance(value, Mapping) and "use" in value else value
        for key, value in block.items()
        if key != "use"
    }
    return _made(found, options, directory, field, text)


def caller(family: str, block: Mapping[str, Any], directory: Path, field: str) -> Callable[[Any], Any]:
    """A block as a function of one thing, which may raise whatever it likes.

    A class is made with the block's options and then called; a function takes them behind its first argument.
    Raises `PluginError` as `build` does, for an installed one of this family or a file of the workflow's.
    """
    text, options = str(block["use"]), {name: value for name, value in block.items() if name != "use"}
    found = _load_object(text, directory, field) if parse(text, field).file else load(family, text, f"{field}.use")
    if isinstance(found, type):
        found, options = _made(found, options, directory, field, text), {}
    if not callable(found):
        raise PluginError(f"{field}.use: {text!r} is {type(found).__name__}, which cannot be called")
    given = checked_options(found, options, field, behind=1)

    def called(thing: Any) -> Any:
        with importing_from(directory):
            return found(thing, **given)

    return called


def _made(found: Any, options: dict[str, Any], directory: Path, field: str, text: str) -> Any:
    checked = checked_options(found, options, field)
    with importing_from(directory), user_code(directory, text), _options(directory, found, field):
        return found(**checked)


@contextlib.contextmanager
def _options(directory: Path, found: Any, field: str) -> Iterator[None]:
    """A `ValueError("option: …")` of an installed part is about that field of the campaign file."""
    try:
        yield
    except ValueError as error:
        option, colon, _ = str(error).partition(":")
        frames = traceback.extract_tb(error.__traceback__)[1:]
        theirs = any(_within(frame.filename, directory) for frame in frames)
        if theirs or not colon or not option.isidentifier():
            raise
        known = inspect.signature(found).parameters.values()
        if any(one.name == option or one.kind is one.VAR_KEYWORD for one in known):
            raise PluginError(f"{field}.{error}") from error
        raise


@contextlib.contextmanager
def importing_from(directory: Path) -> Iterator[None]:
    """Let user code import its neighbours, and only them: none stays behind in `sys.modules`.

    What another copy of the workflow left there under the same name (a notebook's `import model`,
    the source folder of a snapshot) is put aside meanwhile.
    """
    with _IMPORTING:
        path, writes = str(directory), sys.dont_write_bytecode
        aside = {name: sys.modules.pop(name) for name in _namesakes(directory)}
        before = set(sys.modules)
        sys.path.insert(0, path)
        # Bytecode is matched by size and whole second: an edit at once after would go unseen.
        sys.dont_write_bytecode = True
        try:
            yield
        finally:
            sys.dont_write_bytecode = writes
            with contextlib.suppress(ValueError):
                sys.path.remove(path)
            for name in _neighbours(directory, set(sys.modules) - before):
                del sys.modules[name]
            sys.modules.update(aside)


def _neighbours(directory: Path, names: Iterable[str]) -> dict[str, str]:
    """Those modules of the process that are files of the workflow: name -> file."""
    found = {}
    for name in names:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(f"{directory}{os.sep}") and not name.startswith("_staffa_") and not _installed(file):
            found[name] = file
    return found


def _namesakes(directory: Path) -> list[str]:
    """Modules of the process that hide a neighbour of the same name."""
    own = {path.stem for path in directory.iterdir() if path.suffix == ".py" or path.is_dir()} - {"staffa"}
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in own}
    tops = {name for name, file in files.items() if file and not _installed(file)}
    return [name for name in sys.modules if name.partition(".")[0] in tops]


def _installed(file: str) -> bool:
    places = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    return any(Path(file).is_relative_to(place) for place in places)


@contextlib.contextmanager
def user_code(directory: Path, what: str) -> Iterator[None]:
    """Turn whatever user code raises into a `PluginError` that names its line."""
    try:
        yield
    except PluginError:
        raise
    except Exception as error:
        raise explained(error, directory, what) from error


def explained(error: BaseException, directory: Path, what: str) -> PluginError:
    """A `PluginError` naming the innermost line of the user's own file."""
    where = what
    for frame in traceback.extract_tb(error.__traceback__):
        if _within(frame.filename, directory):
            where = f"{Path(frame.filename).name}:{frame.lineno}: in {frame.name}"
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    first = lines[0] if lines else "no message"
    return PluginError(f"{where}: {type(error).__name__}: {first}", _mend(error))


def located(found: Any) -> str:
    """`model.py:12: `, where a class or method is written; empty where there is no source."""
    with contextlib.suppress(OSError, TypeError):
        file, (_, line) = inspect.getsourcefile(found), inspect.getsourcelines(found)
        return f"{Path(file).name}:{line}: " if file else ""
    return ""


def _mend(error: BaseException) -> str:
    if isinstance(error, StaffaError):
        return error.hint
    name = type(error).__name__
    shapes = name == "TypeError" and "concrete values" in str(error)
    if shapes or name in ("TracerBoolConversionError", "TracerIntegerConversionError", "ConcretizationTypeError"):
        return (
            "a traced value was used as a Python bool, int or shape: use jnp.where or jax.lax.cond, "
            "or name the parameter in `static = (...)`"
        )
    if name == "TracerArrayConversionError":
        return "use jax.numpy instead of numpy on traced values, or set vectorize = 'off'"
    return ""


def _within(filename: str, directory: Path) -> bool:
    if filename.startswith("<"):  # made by exec, as dataclasses' methods are
        return False
    with contextlib.suppress(ValueError, OSError):
        return Path(filename).resolve().is_relative_to(directory.resolve())
    return False


def _load_object(text: str, directory: Path, field: str) -> Any:
    reference = parse(text, field)
    if not reference.file:
        return _load_plugin(text, field)
    path = directory / reference.file
    if not path.is_file():
        files = [str(p.relative_to(directory)) for p in directory.glob("**/*.py")]
        raise PluginError(
            f"{field}.use: {text!r}: there is no file {reference.file!r} in {directory}",
            near(reference.file, files),
        )
    module = _import_file(path, directory)
    if not hasattr(module, reference.attribute):
        own = {
            name: value for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
        }
        known = [name for name, value in own.items() if isinstance(value, type) or inspect.isroutine(value)]
        raise PluginError(
            f"{field}.use: {text!r}: {reference.file} has no class or function {reference.attribute!r}",
            near(reference.attribute, known),
        )
    return getattr(module, reference.attribute)


def _load_plugin(name: str, field: str) -> Any:
    """The plug-in an experiment block names: of the option's own families, else of any other part."""
    ranks = (WHOLE,) if field == "experiment" else part_families(field.rpartition(".")[2])
    found = offers(*(family for families in ranks for family in families))
    for families in ranks:
        named = [offer for offer in found if offer.name == name and offer.family in families]
        owners = list(dict.fromkeys(offer.family for offer in named))
        if len(owners) > 1 and len({offer.value or id(offer.found) for offer in named}) > 1:
            raise PluginError(
                f"{field}.use: {name!r} is offered in {' and '.join(owners)}",
                "name another, or write a reference such as model.py:Class",
            )
        if named:
            return loaded([offer for offer in named if offer.family == owners[0]], f"{field}.use")
    kind = "sampler or model" if field == "experiment" else "part of an experiment"
    known = [offer.name for offer in found]
    hint = near(name, known) or "no plug-ins are installed; for a file write model.py:Class"
    raise PluginError(f"{field}.use: unknown {kind} {name!r}", hint)


def _import_file(path: Path, directory: Path) -> ModuleType:
    # The bytes are part of the name: an edited file is a new module, an unchanged one is not
    # executed twice (a second class object would be compiled a second time).
    source = path.read_bytes()
    digest = hashlib.sha256(str(path.resolve()).encode() + source).hexdigest()[:12]
    name = f"_staffa_{digest}_{path.stem}"
    with _IMPORTING:
        if name in sys.modules and _unchanged(sys.modules[name]):
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None:
            raise PluginError(f"{path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        before = sys.modules.get(name)
        sys.modules[name] = module
        try:
            with importing_from(directory), user_code(directory, path.name):
                there = set(sys.modules)
                exec(compile(source, str(path), "exec"), module.__dict__)
                files = _neighbours(directory, set(sys.modules) - there).values()
                module.__dict__[NEIGHBOURS] = {file: _digest(file) for file in files}
        except BaseException:
            del sys.modules[name]
            if before is not None:
                sys.modules[name] = before
            raise
        return module


def _unchanged(module: ModuleType) -> bool:
    """Whether the neighbours a module imported are still what they were."""
    return all(_digest(file) == digest for file, digest in vars(module).get(NEIGHBOURS, {}).items())


def _digest(file: str) -> str:
    with contextlib.suppress(OSError):
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return ""


def _check_methods(cls: type[Experiment]) -> None:
    for method, arguments in (("initialize", 2), ("step", 3)):
        function = getattr(cls, method)
        if function is getattr(Experiment, method):
            raise PluginError(
                f"{located(cls)}{cls.__name__} has no method {method!r}",
                "an experiment needs initialize(self, key, params) and step(self, key, state, params)",
            )
        if len(inspect.signature(function).parameters) != arguments + 1:
            raise PluginError(
                f"{located(function)}{cls.__name__}.{method} takes {inspect.signature(function)}",
                "write initialize(self, key, params) and step(self, key, state, params)",
            )
    if cls.vectorize not in ("vmap", "map", "off"):
        hint = near(str(cls.vectorize), ("vmap", "map", "off"))
        raise PluginError(f"{located(cls)}{cls.__name__}.vectorize = {cls.vectorize!r}", hint)


def offered(experiment: Experiment) -> dict[str, Parameter | None]:
    """What an experiment declares of its parameters; None for those it only names as static.

    Empty where it declares none: then it may be given any.
    """
    cls, found = type(experiment), experiment.parameters
    if not isinstance(found, Mapping):
        raise PluginError(f"{located(cls)}{cls.__name__}.parameters = {found!r} is not a mapping", _DECLARE)
    for name, declared in found.items():
        if not isinstance(declared, Parameter):
            raise PluginError(f"{located(cls)}{cls.__name__}.parameters[{name!r}] = {declared!r}", _DECLARE)
    return {**found, **{name: None for name in experiment.static if name not in found}} if found else {}


_DECLARE = 'write parameters = {"kernel.width": staffa.Parameter(1.0, comment="…")}'


def checked_options(
    found: Any, options: dict[str, Any], field: str, behind: int = 0, given: Iterable[str] = ()
) -> dict[str, Any]:
    """Options as what is to be called with them takes them.

    `behind` so many arguments that are none, and besides those that are `given` by name. Raises `PluginError`.
    """
    import pydantic

    signature = inspect.signature(found)
    known = {n: p for n, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD}
    known = {name: known[name] for name in [*known][behind:] if name not in given}
    free = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    if signature.parameters.keys() == {"args", "kwargs"}:  # object.__init__: no options at all
        known, free = {}, False
    for name in options:
        if name not in known and not free:
            raise PluginError(
                f"{field}.{name}: {getattr(found, '__name__', found)} has no option {name!r}", near(name, known)
            )
    needed = (n for n, p in known.items() if p.default is p.empty and p.kind is not p.VAR_POSITIONAL)
    missing = [name for name in needed if name not in options]
    if missing:
        raise PluginError(f"{field}.{missing[0]}: {getattr(found, '__name__', found)} needs this option")
    hints = _annotations(found)
    checked = {}
    for name, value in options.items():
        annotation = hints.get(name, Any)
        try:
            adapter = pydantic.TypeAdapter(annotation, config={"arbitrary_types_allowed": True})
            checked[name] = adapter.validate_python(value, strict=False)
        except pydantic.ValidationError as error:
            reason = error.errors()[0]["msg"]
            # A part made of a block is known by its class.
            shown = type(value).__name__ if hasattr(value, "__dict__") else repr(value)
            raise PluginError(f"{field}.{name}: {shown}: {reason}") from None
        except pydantic.errors.PydanticUserError:
            checked[name] = value
    return checked


def _annotations(found: Any) -> dict[str, Any]:
    target = getattr(found, "__init__") if isinstance(found, type) else found  # noqa: B009
    with contextlib.suppress(Exception):
        return typing.get_type_hints(target)
    return {}
