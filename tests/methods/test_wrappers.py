"""Methods made of others (several at once, dpo and grpo) forward every hook of the others, or refuse it by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.architecture import SAMPLE
from harness.methods import Composed, Method, all_methods
from harness.methods.wrappers import Around
from harness.plugin import Configurable
from harness.records import TrainSettings

NO_HOOKS = {
    "declare",
    "drafted_for",
    "mistakes",
    "problems",
    "skip",
    "kind",
    "family",
    "name",
    "paper",
    "packages",
    "quantize",
}
HOOKS = sorted(name for name in vars(Method) if not name.startswith("_") and name not in NO_HOOKS)
WRAPPERS: list[type[Method]] = [Composed, Around]
# What each hook is called with; properties with nothing.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "own_model": (),
    "wants": ("t",),
    "reads": ("t",),
    "borrows": (),
    "learns": ("t",),
    "refuses": (None,),
    "cannot_train": (TrainSettings(steps=2),),
    "misfits": (SAMPLE,),
    "footprint": (SAMPLE,),
    "tokens_before": (SAMPLE, len),
    "load": (None,),
    "attach": (None,),
    "parameter_groups": (None,),
    "rows": (None, [], None),
    "fit": (None, None),
    "prepare": (None, None),
    "before_training": (None, 2, 0),
    "penalty": (None,),
    "after_step": (None, 1),
    "snapshot": (None,),
    "go_back": (None, [None]),
    "finish": (None, None),
    "predictor": (None, None),
    "save": (None, Path("weights")),
    "restore": (None, Path("weights")),
    "recall": (None, Path("weights")),
    "fold": (None,),
}
# Hooks of a part that trains nothing are called where those of one that trains are not.
OF_WHAT_TRAINS_NOTHING = {"fit"}


class Called(Exception):
    """Raised by a spy's hook, with the hook's name."""


def spy_on(hook: str, trains: bool = True) -> Method:
    """A method that says so when one of its hooks is called, and is like any other otherwise."""

    def called(self: Method, *arguments: Any) -> Any:
        raise Called(hook)

    attribute: Any = property(called) if isinstance(vars(Method)[hook], property) else called
    kind = type("Spy", (Method,), {"name": "spy", "trains": trains, hook: attribute, "__annotations__": {}})
    made: Method = kind()
    made.declare(learning_rate=1e-3)
    return made


def composed_of(part: Method) -> Method:
    return Composed([part, all_methods()["base"]()])


def around(part: Method) -> Method:
    wrapper = all_methods()["dpo"]()
    vars(wrapper).update(part=part, pursue=lambda model, context: model)
    return wrapper


def use(wrapper: Method, hook: str) -> None:
    attribute = getattr(wrapper, hook)
    result = attribute(*ARGUMENTS[hook]) if callable(attribute) else attribute
    if inspect.isgenerator(result):
        list(result)


@pytest.mark.parametrize("kind", WRAPPERS)
def test_every_hook_is_forwarded_or_refused(kind: type[Method]) -> None:
    made = composed_of(all_methods()["lora"]()) if kind is Composed else all_methods()["dpo"]()
    refused: dict[str, str] = kind.NOT_FORWARDED  # type: ignore[attr-defined]
    assert set(refused) <= set(HOOKS), "it refuses what is no hook"
    assert all(refused.values()), "with a reason each"
    assert not [hook for hook in HOOKS if not ({hook} & {*vars(kind), *vars(made), *refused})]


CALLED = [
    (kind, wrap, hook)
    for kind, wrap in ((Composed, composed_of), (Around, around))
    for hook in HOOKS
    if (hook in ARGUMENTS or isinstance(vars(Method)[hook], property))
    and hook not in kind.NOT_FORWARDED  # type: ignore[attr-defined]
    and (kind, hook) != (Around, "fit")  # `pursue` is in its place
]


@pytest.mark.parametrize(("kind", "wrap", "hook"), CALLED)
def test_a_hook_of_a_part_is_called(kind: Any, wrap: Callable[[Method], Method], hook: str) -> None:
    wrapper = wrap(spy_on(hook, trains=not (kind is Composed and hook in OF_WHAT_TRAINS_NOTHING)))
    if kind is Composed and hook == "parameter_groups":  # gathered while the parts are attached
        with pytest.raises(Called, match=hook):
            wrapper.attach(NoWeights())  # type: ignore[arg-type]
        return
    with pytest.raises(Called, match=hook):
        use(wrapper, hook)


class NoWeights:
    """As much of a model as `attach` asks of one."""

    def parameters(self) -> list[Any]:
        return []


@pytest.mark.parametrize("hook", sorted(Composed.ONE_OWNER))
def test_two_parts_with_their_own_form_of_one_thing_are_refused(hook: str) -> None:
    first, second = spy_on(hook), spy_on(hook)
    vars(second)["name"] = "other"
    assert f"spy and other both {Composed.ONE_OWNER[hook]}. Keep one." in list(Composed([first, second]).problems())


def test_what_around_refuses_is_refused_by_name() -> None:
    for settings in ({"own_trainer": True}, {"is_language_model": False}, {"trains": False}):
        part = all_methods()["lora"]()
        part.declare(**settings)
        assert any("cannot train lora" in message for message in around(part).problems()), settings
    assert any("adds a term of its own" in message for message in around(spy_on("penalty")).problems())
    assert any("cannot train spy" in message for message in around(wanting()).problems())


def wanting() -> Method:
    """A method that needs another cell."""
    kind = type("Spy", (Method,), {"name": "spy", "wants": lambda self, task: ["a cell"], "__annotations__": {}})
    return kind()  # type: ignore[no-any-return]


def test_configurable_has_no_hook_that_wrappers_miss() -> None:
    """What settings are made of is the wrappers' own; a new public name there must be looked at."""
    known = {"name", "kind", "paper", "packages", "later", "annotations", "fields", "settings", "identity"}
    assert {name for name in vars(Configurable) if not name.startswith("_")} == known | {"problems", "mistakes", "skip"}
