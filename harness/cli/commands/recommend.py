"""`tunebench recommend`: which method to take."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from harness.cli.display import console, show_json
from harness.cli.options import AsJson, Results, SuiteName, command, project, results, size_of, suite_name
from harness.errors import UserError
from harness.records import printable

if TYPE_CHECKING:
    from rich.table import Table

    from harness.analysis import Answer, Prices
    from harness.report import Question

Read = TypeVar("Read")
SYMBOLS = {"$": "USD", "€": "EUR", "£": "GBP"}
MILLISECONDS = {"ms": 1.0, "s": 1000.0, "min": 60_000.0}
NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"


@command("Answer a question", "which method of a suite to use within your limits")
def recommend(
    suite: SuiteName,
    examples: Annotated[
        int | None,
        typer.Option(min=1, help="number of training examples you have (default: the largest size that was run)"),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="memory of your device, such as 16GiB, for training and for answering")
    ] = None,
    max_forgetting: Annotated[
        float | None, typer.Option(min=0, help="the most that a retained task may lose, in the unit of its headline")
    ] = None,
    forgetting_on: Annotated[
        str, typer.Option(help="the retained task of --max-forgetting (default: the suite's first)")
    ] = "",
    latency: Annotated[str | None, typer.Option(help="median latency of a single request: 50ms, 0.05s")] = None,
    budget: Annotated[str | None, typer.Option(help="total cost of training, answering and updating: 5USD")] = None,
    price: Annotated[
        str | None, typer.Option(help="price of an hour of the device: 1.20USD/h (default: assumed by device)")
    ] = None,
    requests: Annotated[float | None, typer.Option(min=0, help="requests a month (default: 100000)")] = None,
    months: Annotated[float | None, typer.Option(min=0, help="months in use (default: 12)")] = None,
    updates: Annotated[float | None, typer.Option(min=0, help="updates with new examples a year (default: 12)")] = None,
    margin: Annotated[
        float | None,
        typer.Option(min=0, help="the difference of scores that does not matter (default: the suite's margin)"),
    ] = None,
    task: Annotated[str, typer.Option(help="this task alone")] = "",
    model: Annotated[str, typer.Option(help="this base model alone")] = "",
    folder: Results = None,
    as_json: AsJson = False,
) -> None:
    """Say which method of a suite to use within your limits, why, and how certain that is.

    It lists what is ruled out by which limit.

    Example: tunebench recommend every-method --examples 100 --memory 16GiB --max-forgetting 0.1 --budget 5USD
    """
    from harness.analysis import Wishes
    from harness.report import load, prices_of, questions, recommendations

    mistakes: list[str] = []

    def parsed(parse: Callable[[str], Read], text: str | None) -> Read | None:
        try:
            return None if text is None else parse(text)
        except UserError as error:
            mistakes.append(str(error))
            return None

    bytes_, milliseconds = parsed(size_of, memory), parsed(duration, latency)
    money, hourly = parsed(amount, budget), parsed(rate, price)
    if mistakes:
        raise UserError("\n".join(mistakes))
    name = suite_name(suite)
    report = load(results(folder, project()), name)
    margin = report.run.margin if margin is None else margin
    prices = priced(prices_of(report), hourly, money, requests=requests, months=months, updates=updates)
    asked = questions(report, examples, task, model, margin)
    wishes = Wishes(bytes_, max_forgetting, forgetting_on, milliseconds, money[0] if money else None, margin)
    found = recommendations(asked, wishes, prices)
    if as_json:
        show_json([one.to_json() for one in found])
        return
    for place, one in enumerate(found):
        if place:
            print()
        show(one.answer, one.question)


def duration(text: str) -> float:
    """Returns the milliseconds of a text such as "50ms", "0.05s" or "1min". Raises UserError for other text."""
    found = re.fullmatch(NUMBER + r"\s*(ms|s|min)", text.strip())
    if not found:
        raise UserError(f"--latency: got {text!r}, wanted a duration with its unit, such as 50ms or 0.05s.")
    return float(found[1]) * MILLISECONDS[found[2]]


def amount(text: str, option: str = "--budget", example: str = "5USD, $5 or 5") -> tuple[float, str]:
    """Parses an amount of money: "5USD", "5 EUR" and "$5" give (5.0, currency); "5" gives (5.0, ""), no currency named.
    Raises UserError for other text, whose message names the `option` and gives the `example`."""
    found = re.fullmatch(rf"([$€£]?)\s*{NUMBER}\s*([A-Za-z]{{3}}|[$€£])?", text.strip())
    if not found or (found[1] and found[3]):
        raise UserError(f"{option}: got {text!r}, wanted an amount of money, such as {example}.")
    mark = found[1] or found[3] or ""
    return float(found[2]), SYMBOLS.get(mark, mark.upper())


def rate(text: str) -> tuple[float, str]:
    """Parses the price of an hour: "1.20USD/h" gives (1.2, "USD"); "1.20" gives (1.2, ""), no currency named. Raises
    UserError for other text."""
    return amount(re.sub(r"\s*/\s*h(our)?$", "", text.strip()), "--price", "1.20USD/h")


def priced(
    assumed: Prices, hourly: tuple[float, str] | None, budget: tuple[float, str] | None, **volume: float | None
) -> Prices:
    """Returns the `assumed` prices with those replaced that were given: `hourly` is the price of an hour of the device,
    both it and the `budget` are (amount, currency), and `volume` may hold `requests`, `months` and `updates`. None was
    not given.

    No currency is converted: raises UserError where the price and the budget are in different ones.
    """
    given = {name: value for name, value in volume.items() if value is not None}
    if hourly:
        given["hour"] = hourly[0]
    currency = (hourly[1] or (budget or (0, ""))[1] if hourly else "") or assumed.currency
    if budget and budget[1] and budget[1] != currency:
        what = f"--price is in {currency}" if hourly else f"the assumed price of the device is in {currency}"
        raise UserError(
            f"--budget is in {budget[1]}, {what}, and nothing is converted. Give --price in {budget[1]}, such as "
            f"--price 1.20{budget[1]}/h."
        )
    left = tuple(name for name in assumed.assumed if name not in given)
    return replace(assumed, currency=currency, assumed=left, of="" if hourly else assumed.of, **given)


def show(answer: Answer, question: Question) -> None:
    """Prints the answer to a question: the recommendation, a table of the candidates that fit, those ruled out and why,
    and the assumptions."""
    from rich.table import Table
    from rich.text import Text

    from harness.report import advice

    screen = console(fitted=True)
    first, *others = advice.sentences(answer, question)
    screen.print(Text(printable(advice.title(question)), style="italic"))
    screen.print(Text(printable(first), style="bold"))
    for line in others:
        screen.print(Text(printable(line), style="yellow" if line.startswith("WARNING") else ""))
    if answer.first:
        for line in advice.details(answer.first, answer.prices):
            screen.print(Text(printable(line), style="dim"))
        screen.print(table(answer, question, screen.width))
    out = Table.grid(padding=(0, 2), pad_edge=True)
    out.add_column(no_wrap=True)
    out.add_column()
    for label, why in advice.ruled_out(answer):
        out.add_row(Text(printable(label)), Text(printable(why)))
    if answer.ruled_out:
        screen.print(Text(printable("\nRuled out"), style="bold"))
        screen.print(out)
    screen.print(Text(printable("\nAssumptions"), style="bold"))
    for line in advice.assumptions(answer, question):
        screen.print(Text(printable(f"  {line}"), style="dim"))


def table(answer: Answer, question: Question, width: int) -> Table:
    """Makes a table of the candidates that fit, the best first, at most `advice.MOST_ROWS`; columns are dropped where
    `width` (in characters) has no room for all."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from harness.report import advice

    names = advice.headers(question)
    lines = [advice.texts(one, answer.prices) for one in answer.ranked[: advice.MOST_ROWS]]
    kept = list(range(len(names)))
    for name in advice.SPARE:
        if sum(max(len(line[place]) for line in [names, *lines]) + 3 for place in kept) <= width:
            break
        kept.remove(names.index(name))
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place in kept:
        made.add_column(Text(printable(names[place])), justify="left" if place == 0 else "right", no_wrap=place == 0)
    for line in lines:
        made.add_row(*(Text(printable(line[place])) for place in kept))
    more = len(answer.ranked) - advice.MOST_ROWS
    if more > 0:
        made.caption = f"… and {more} more that fit (--json)"
    return made
