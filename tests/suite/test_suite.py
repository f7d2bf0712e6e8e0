from itertools import pairwise
from pathlib import Path

import pytest

from harness.errors import SuiteError, UserError
from harness.records import MARGIN, TRICKS
from harness.suite.load import find_suite, load_suite

GOOD = """\
version: 1
models: [tiny]
tasks:
  - {learn: colours, sizes: [8]}
methods:
  lora: {rank: 4, learning_rate: 1e-4}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    return path


def mistakes(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(SuiteError) as caught:
        load_suite(write(tmp_path, text))
    return [str(problem).removeprefix(f"{tmp_path}/") for problem in caught.value.problems]


def test_a_good_suite(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, GOOD))
    assert [label.name for label in suite.labels] == ["base", "lora"]  # base is always a row
    assert suite.labels[1].method.settings["learning_rate"] == 1e-4  # PyYAML reads 1e-4 as a string
    assert suite.labels[1].train.epochs == 3.0
    assert suite.seeds == (0,)


def test_a_labels_own_training_settings_displace_the_suites(tmp_path: Path) -> None:
    text = GOOD.replace("rank: 4,", "train: {epochs: 2},") + "  full: {}\ntrain: {steps: 5, batch_size: 2}\n"
    suite = load_suite(write(tmp_path, text))
    trains = {label.name: label.train for label in suite.labels}
    assert (trains["lora"].steps, trains["lora"].epochs, trains["lora"].batch_size) == (None, 2.0, 2)
    assert (trains["full"].steps, trains["full"].epochs) == (5, None)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("models:", "modles:", "s.yaml:2: unknown key 'modles'. Did you mean 'models'?"),
        ("lora:", "lorra:", "s.yaml:6: unknown method 'lorra'. Did you mean 'lora'?"),
        ("rank: 4", "rnak: 4", "s.yaml:6: unknown setting of lora 'rnak'. Did you mean 'rank'?"),
        ("rank: 4", "rank: four", "s.yaml:6: rank: got 'four', wanted"),
        ("rank: 4", "rank: true", "s.yaml:6: rank: got True, wanted a number."),
        ("rank: 4", "rank: 0", "s.yaml:6: label 'lora': rank is 0; it must be at least 1."),
        (
            "rank: 4, learning_rate: 1e-4",
            "learning_rate: -1",
            "s.yaml:6: learning_rate: got -1.0, wanted a number above 0.",
        ),
        ("rank: 4", "alpha: .nan", "s.yaml:6: alpha: got nan, wanted a finite number."),
        ("methods:", "train: {steps: true}\nmethods:", "s.yaml:5: steps: got True, wanted a number."),
        ("methods:", "train: {steps: many}\nmethods:", "s.yaml:5: steps: got 'many', wanted an integer."),
        (
            "methods:",
            "memory_limit: much\nmethods:",
            "s.yaml:5: memory_limit: got 'much', wanted bytes, such as 16GiB.",
        ),
        ("methods:", "methods:\n  8: {method: lora}", "s.yaml:5: got 8 as a name, wanted text. Put it in quotes: '8'."),
        (
            "  lora:",
            "  mine: {method: lora, rank: 4, learning_rate: 1e-4}\n  lora:",
            "s.yaml:7: label 'lora' is the same",
        ),
        ("  lora:", "  mine: {method: base}\n  lora:", "s.yaml:6: label 'mine' is the same as 'base'"),
        ("version: 1", "version: 1\nquestion: 2024-13-45", "s.yaml:2: not valid YAML: '2024-13-45' is no timestamp."),
        ("rank: 4", "quantize: nf5", "s.yaml:6: quantize: got 'nf5', wanted"),
        ("sizes: [8]", "sizes: []", "s.yaml:4: tasks.0.sizes is empty: the grid would hold no cell."),
        ("sizes: [8]", "sizes: [8, 8]", "s.yaml:4: 8 is listed twice."),
        ("sizes: [8]", "sizes: [0]", "s.yaml:4: size 0: a size is a number of training examples"),
        ("sizes: [8]", "sizes: [many]", "s.yaml:4: tasks.0.sizes.0: got 'many', wanted"),
        ("sizes: [8]", "size: [8]", "s.yaml:4: unknown key 'size'. Did you mean 'sizes'?"),
        ("[tiny]", "[]", "s.yaml:2: models is empty"),
        ("version: 1", "version: 2", "s.yaml:1: version: got 2, wanted 1."),
        ("methods:", "seeds: [4294967296]\nmethods:", "s.yaml:5: seed 4294967296: a seed is from 0 to 4294967295."),
        ("methods:", "seeds: [0, 0]\nmethods:", "s.yaml:5: 0 is listed twice."),
        (
            "methods:",
            "train: {steps: -1}\nmethods:",
            "s.yaml:5: steps: got -1, wanted greater than or equal to 1.",
        ),
        ("methods:", "train: {stpes: 1}\nmethods:", "s.yaml:5: unknown key 'stpes'. Did you mean 'steps'?"),
        ("methods:", "train: {steps: 1, epochs: 1}\nmethods:", "s.yaml:5: steps and epochs are both given."),
        ("methods:", "train: {early_stopping: 2}\nmethods:", "s.yaml:5: early_stopping needs eval_every"),
        (
            "methods:",
            "train: {batch_size: 4, devices: 3}\nmethods:",
            "s.yaml:5: batch_size 4 cannot be divided among 3 devices: it is that of all devices together. "
            "Take a multiple of 3, such as 6, or other devices.",
        ),
        ("rank: 4", "train: {devices: 5}", "s.yaml:6: batch_size 8 cannot be divided among 5 devices"),
        ("rank: 4", "train: {devices: 0}", "s.yaml:6: devices: got 0, wanted greater than or equal to 1."),
        ("rank: 4", "train: {strategy: dpp}", "s.yaml:6: strategy: got 'dpp', wanted 'ddp', 'fsdp' or 'deepspeed'."),
        ("rank: 4", "train: {strategy: fsdp}", "s.yaml:6: label 'lora': strategy fsdp divides work among devices"),
        (
            "  lora:",
            "  qlora: {train: {devices: 2, strategy: fsdp}}\n  lora:",
            "s.yaml:6: label 'qlora': fsdp cannot divide nf4 weights. Use strategy: ddp",
        ),
        (
            "  lora:",
            "  setfit: {train: {devices: 2}}\n  lora:",
            "s.yaml:6: label 'setfit': setfit is trained on one device, and devices is 2. Give it train: {devices: 1}.",
        ),
        ("  lora:", "  base: {quantize: nf4}\n  lora:", "s.yaml:6: base is the base model"),
        (
            "  lora:",
            "  full: {quantize: nf4}\n  lora:",
            "s.yaml:6: label 'full': full cannot train nf4 weights.",
        ),
        ("  lora:", "  full: 3\n  lora:", "s.yaml:6: label 'full': got 3, wanted settings or {}."),
        ("  lora:", "  lora: {}\n  lora:", "s.yaml:7: key 'lora' is given twice."),
        ("  lora:", "  merged: {method: merge}\n  lora:", "s.yaml:6: label 'merged': experts.learn is None"),
        (
            "  lora:",
            "  merged: {method: merge, experts: {method: lroa, learn: [a, b]}}\n  lora:",
            "s.yaml:6: unknown method 'lroa'. Did you mean 'lora'?",
        ),
        (
            "  lora:",
            "  merged: {method: merge, experts: {method: lora, rnk: 2, learn: [a, b]}}\n  lora:",
            "s.yaml:6: unknown setting of lora 'rnk'. Did you mean 'rank'?",
        ),
        (
            "  lora:",
            "  merged: {method: merge, experts: {method: prompt_tuning, learn: [a, b]}}\n  lora:",
            "s.yaml:6: prompt_tuning leaves no weights that can be merged.",
        ),
        ("methods:", "corrupt: [{lables: 0.2}]\nmethods:", "s.yaml:5: unknown key 'lables'. Did you mean 'labels'?"),
        ("methods:", "corrupt: [{labels: 1.2}]\nmethods:", "s.yaml:5: corrupt.0.labels: got 1.2, wanted less than"),
        ("methods:", "corrupt: [{labels: true}]\nmethods:", "s.yaml:5: corrupt.0.labels: got True, wanted a number."),
        (
            "methods:",
            "corrupt: [{duplicates: 1}]\nmethods:",
            "s.yaml:5: corrupt.0.duplicates: got 1, wanted less than 1.",
        ),
        ("methods:", "corrupt: [{truncate: -0.1}]\nmethods:", "s.yaml:5: corrupt.0.truncate: got -0.1, wanted greater"),
        ("methods:", "corrupt: [{imbalance: 0.5}]\nmethods:", "s.yaml:5: corrupt.0.imbalance: got 0.5, wanted greater"),
        (
            "methods:",
            "corrupt: [{imbalance: .inf}]\nmethods:",
            "s.yaml:5: corrupt.0.imbalance: got inf, wanted a finite",
        ),
        ("methods:", "corrupt: []\nmethods:", "s.yaml:5: corrupt is empty: the grid would hold no cell."),
        ("methods:", "corrupt: {labels: 0.2}\nmethods:", "s.yaml:5: corrupt: got {'labels': 0.2}, wanted a list."),
        ("methods:", "corrupt: [0.2]\nmethods:", "s.yaml:5: corrupt.0: got 0.2, wanted a mapping (key: value)."),
        ("methods:", "corrupt: [{}, {labels: 0}]\nmethods:", "s.yaml:5: clean data ({}) is listed twice."),
        (
            "methods:",
            "select: [hrad]\nmethods:",
            "s.yaml:5: select.0: got 'hrad', wanted 'random', 'balanced', 'diverse'",
        ),
        ("methods:", "select: [hard, hard]\nmethods:", "s.yaml:5: 'hard' is listed twice."),
        ("methods:", "margin: -0.1\nmethods:", "s.yaml:5: margin: got -0.1, wanted greater than or equal to 0."),
        ("methods:", "margin: 2\nmethods:", "s.yaml:5: margin: got 2, wanted less than 1."),
        ("methods:", "margin: true\nmethods:", "s.yaml:5: margin: got True, wanted a number."),
        ("methods:", "margin: small\nmethods:", "s.yaml:5: margin: got 'small', wanted a number"),
        ("methods:", "margin: .nan\nmethods:", "s.yaml:5: margin: got nan, wanted"),
        ("methods:", "magin: 0.1\nmethods:", "s.yaml:5: unknown key 'magin'. Did you mean 'margin'?"),
    ],
)
def test_one_mistake_is_one_message_with_its_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    found = mistakes(tmp_path, GOOD.replace(old, new))
    assert any(line.startswith(said) for line in found), found
    assert len(found) <= 2, found


def test_data_quality_is_read(tmp_path: Path) -> None:
    suite = load_suite(
        write(tmp_path, GOOD + "corrupt: [{}, {labels: 0.2, imbalance: 10}]\nselect: [balanced, hard]\n")
    )
    assert [quality.suffix for quality in suite.qualities()] == [
        "", "/labels0.2+imbalance10", "/hard", "/labels0.2+imbalance10/hard",
    ]  # fmt: skip
    assert [quality.suffix for quality in load_suite(write(tmp_path, GOOD)).qualities()] == [""]


def test_early_stopping_of_a_label_may_lean_on_the_suite(tmp_path: Path) -> None:
    text = GOOD.replace("rank: 4,", "train: {early_stopping: 2},") + "train: {eval_every: 4}\n"
    assert load_suite(write(tmp_path, text)).labels[1].train.early_stopping == 2


def test_all_mistakes_come_together(tmp_path: Path) -> None:
    text = GOOD.replace("rank: 4", "rnak: 4").replace("sizes: [8]", "sizes: [0]").replace("version: 1", "version: 3")
    found = mistakes(tmp_path, text + "colour: red\n")
    assert [line.split(":")[1] for line in found] == ["1", "4", "6", "7"]


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text", "a: [1, 2", "a: b: c", "\tx: 1"])
def test_what_is_not_a_suite_at_all(tmp_path: Path, text: str) -> None:
    found = mistakes(tmp_path, text)
    assert len(found) == 1
    assert found[0].startswith("s.yaml:1: ") or "not valid YAML" in found[0]


def test_not_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(SuiteError, match="not a text file"):
        load_suite(path)


def test_unknown_suite_names_the_nearest(project: Path) -> None:
    with pytest.raises(UserError, match="unknown suite 'smal'. Did you mean 'small'?"):
        find_suite("smal", project)
    with pytest.raises(UserError, match="no suite at nowhere.yaml"):
        find_suite("nowhere.yaml", project)


@pytest.mark.parametrize("name", ["quickstart", "peft-vs-full", "model-size", "data-quality", "data-selection"])
def test_shipped_suites_are_sound(name: str) -> None:
    root = Path(__file__).parents[2]
    suite = load_suite(find_suite(name, root))
    assert suite.question


def test_a_margin_is_the_suites_own_or_the_default(tmp_path: Path) -> None:
    assert load_suite(write(tmp_path, GOOD)).margin == MARGIN
    assert load_suite(write(tmp_path, GOOD + "margin: 1e-2\n")).margin == 0.01
    assert load_suite(write(tmp_path, GOOD + "margin: 0\n")).margin == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("methods: &all {full: *all}", "an alias .* stands within what it stands for"),
        ("methods: " + "[" * 2000 + "]" * 2000, "is nested too deeply: at most 50 levels"),
        ("methods: {full: " + "{a: " * 60 + "1" + "}" * 60 + "}", "is nested too deeply: at most 50 levels"),
        (
            "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in pairwise("abcdefghi")),
            "its aliases .* make more than 100000 entries of it",
        ),
        ("methods: {full: {null: 1}}", "key None: a setting's name is a text"),
        ("methods: {full: {method: {a: 1}}}", "unknown method"),
        ("methods: {full: [[1]]}", "wanted settings or {}"),
        ("x: '" + "y" * 2**20 + "'", "has .* bytes; a suite has at most 1048576"),
    ],
)
def test_what_no_hand_would_write_is_one_message(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(f"version: 1\nmodels: [m]\ntasks: [{{learn: t, sizes: [8]}}]\n{text}\n")
    with pytest.raises(SuiteError, match=message):
        load_suite(path)


@pytest.mark.parametrize("label", ['""', '" "', "a/b", '"a\\nb"', '"\\e[31mred"', "x" * 101])
def test_a_label_that_no_key_could_hold_is_refused(tmp_path: Path, label: str) -> None:
    (said,) = mistakes(tmp_path, f"{GOOD}  ? {label}\n  : {{method: full}}\n")
    assert said.startswith("s.yaml:7: label '")
    assert "a label is a text of 1 to 100 signs in one line, without a slash" in said
    assert said.isprintable()


def test_labels_that_are_written_the_same_are_refused(tmp_path: Path) -> None:
    said = mistakes(tmp_path, GOOD + '  1: {method: full}\n  "1": {method: bitfit}\n')
    assert "s.yaml:8: label '1': 1 is written the same. Rename one." in said


def test_a_suite_whose_report_would_lie_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "...yaml").write_text(GOOD)
    with pytest.raises(SuiteError, match=r"a suite cannot be named '\.\.'. Rename the file"):
        load_suite(tmp_path / "...yaml")


def test_a_plain_suite_has_no_tricks(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("version: 1\nmodels: [m]\ntasks: [{learn: t, sizes: [8]}]\nmethods: {full: {train: {steps: 3}}}\n")
    suite = load_suite(path)
    assert {label.train.fast for label in suite.labels} == {TRICKS}
    assert {label.train.fast for label in suite.plain.labels} == {()}
    assert suite.plain.labels[-1].train.steps == 3
