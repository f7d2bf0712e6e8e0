"""The report: its figures by hand, and that its three faces say the same."""

from __future__ import annotations

import io
import json
import math
import re
import statistics
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import pytest
from results_factory import MIB, OTHER, PROSE, Results, answered, cell, demo, environment, scores

from harness.errors import StoreError
from harness.records import Check, Fact, Flag, Status, TrainSettings, quantity
from harness.report import load, printable, write_report
from harness.report.chart_style import spec
from harness.report.columns import headers, problem, texts
from harness.report.format import number, share, size, with_error
from harness.report.label_placement import box, overlap, place
from harness.report.measurements import joint_stderr
from harness.report.scatter import learning_against_forgetting
from harness.report.sections import memory
from harness.report.sections.answer import sentences
from harness.report.sections.losses import losses


@pytest.fixture(scope="module")
def demo_store(tmp_path_factory):
    return demo(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def block(demo_store):
    (only,) = load(demo_store, "demo").blocks
    return only


@pytest.fixture(scope="module")
def written(demo_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    paths = write_report(load(demo_store, "demo"), folder)
    return folder, paths.html.read_text(encoding="utf-8"), paths.markdown.read_text(encoding="utf-8")


def row_of(block, label, n_train=32):
    return next(row for row in block.rows if (row.label, row.n_train) == (label, n_train))


def printed(store, width):
    from rich.console import Console

    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(printable(load(store, "demo")))
    return console.export_text()


class TestFigures:
    def test_one_seed_has_the_item_error(self):
        assert joint_stderr([0.8], [0.03]) == pytest.approx(0.03)

    def test_seeds_add_their_spread_and_do_not_shrink_the_item_error(self):
        values, errors = [0.80, 0.84, 0.76], [0.03, 0.02, 0.04]
        item = (0.0009 + 0.0004 + 0.0016) / 3
        assert joint_stderr(values, errors) == pytest.approx(math.sqrt(item + statistics.variance(values) / 3))
        assert joint_stderr([0.8] * 100, [0.03] * 100) == pytest.approx(0.03)

    def test_an_unknown_error_stays_unknown(self):
        assert joint_stderr([0.8, 0.9], [0.03, None]) is None
        assert joint_stderr([], []) is None

    def test_means_and_gain(self, block):
        lora = row_of(block, "lora")
        assert lora.score.value == pytest.approx((0.79 + 0.81 + 0.80) / 3)
        assert lora.score.stderr == pytest.approx(math.sqrt(0.03**2 + 0.0001 / 3))
        assert lora.score.gain == pytest.approx(0.80 - 0.60)
        assert 0.01 < lora.score.gain_stderr < 0.06  # paired with the base, item by item
        assert lora.retained[PROSE].gain == pytest.approx(-0.10)
        assert row_of(block, "full").retained[PROSE].gain_stderr == pytest.approx(
            statistics.stdev([0.3, 0.4, 0.5, 0.6]) / 2
        )

    def test_costs(self, block):
        lora = row_of(block, "lora")
        assert lora.train_seconds == pytest.approx(52.0)
        assert lora.tokens_per_second == pytest.approx((6000 / 50 + 6000 / 54 + 6000 / 52) / 3)
        assert lora.peak_bytes == 1536 * MIB
        assert lora.trainable == pytest.approx(0.01)
        assert lora.artifact_bytes == 4 * MIB

    def test_tokens_per_second_falls_back_to_the_phase(self):
        from types import SimpleNamespace

        from harness.report.measurements import tokens_per_second

        assert tokens_per_second(SimpleNamespace(facts={}, phases={"train": {"tokens": 600, "seconds": 6.0}})) == 100
        assert tokens_per_second(SimpleNamespace(facts={}, phases={})) is None

    def test_device_memory_comes_before_resident(self):
        from types import SimpleNamespace

        from harness.report.measurements import peak_bytes

        phases = {
            "load": {"device_bytes": None, "rss_bytes": 9},
            "train": {"device_bytes": 5, "rss_bytes": 9},
        }
        assert peak_bytes(SimpleNamespace(phases=phases)) == 5.0

    def test_a_loss_that_is_not_finite_does_not_spoil_the_curve(self):
        from types import SimpleNamespace

        from harness.report.measurements import mean_curve

        one = SimpleNamespace(losses=[(1, "train", 2.0), (2, "train", math.nan), (2, "validation", 9.0)])
        two = SimpleNamespace(losses=[(1, "train", 4.0), (2, "train", 1.0)])
        assert mean_curve([one, two]) == [(1, 3.0), (2, 1.0)]


class TestRows:
    def test_the_base_stands_above_each_size(self, block):
        assert block.sizes == (32, 128)
        assert [block.at(n_train)[0].label for n_train in block.sizes] == ["base", "base"]

    def test_a_failure_is_a_row_with_its_reason_and_no_number(self, block):
        row = row_of(block, "qlora")
        assert problem(row) == "oom: resident memory passed 7.5 GiB"
        assert texts(block, row)[:3] == ["qlora", "0 of 3", "oom"]
        assert not any(re.search(r"\d", text) for text in texts(block, row)[2:])
        assert problem(row_of(block, "late")) == "missing"

    def test_a_row_short_of_a_seed_says_so(self, block):
        assert texts(block, row_of(block, "dora"))[1] == "1 of 2"

    def test_without_a_language_model_retention_is_not_applicable(self, block):
        row = texts(block, row_of(block, "setfit"))
        assert row[0] == "setfit (encoder)"
        assert dict(zip(headers(block), row, strict=True))["Δ prose (nats/word)"] == "n/a"

    def test_marks(self, block):
        row = texts(block, row_of(block, "prompt"))
        assert row[0] == "prompt †"
        assert "61 ‡" in row
        assert "†" not in texts(block, row_of(block, "lora"))[0]

    def test_every_row_has_a_text_for_each_header(self, block):
        assert {len(texts(block, row)) for row in block.rows} == {len(headers(block))}


class TestAnswer:
    def test_sentences(self, block):
        said = " ".join(sentences(block))
        assert "With 128 examples, setfit (encoder) scores best on topic: acc 0.93 ± 0.03 (base model: 0.60)." in said
        assert re.search(r"Chance that it is the best of these 6: \d\d%", said)
        assert "setfit is better than prompt, base; undecided against full, lora, dora (p corrected for all 15" in said
        assert "Compared with full, which trains every weight: worse: prompt; undecided: lora, dora." in said
        assert "lora forgets least on prose (−0.100 nats/word)" in said  # prompt lost less, but learned nothing
        assert "setfit 21 s to train (full: 70 s); lora 4 MiB and dora 4 MiB to ship" in said
        assert "Not shown to be better than the base model: prompt." in said

    def test_one_seed_is_said_to_be_one(self, tmp_path):
        results = Results(tmp_path)
        base = cell("base")
        results.add(base, scores(0.6))
        results.add(cell("lora", 32, 0, baseline=base.spec_digest), scores(0.8), train_seconds=5.0)
        answers = [answered(0.6, 1), answered(0.8, 2)]
        for one, found in zip((base, cell("lora", 32, 0, baseline=base.spec_digest)), answers, strict=True):
            results.add(one, scores(0.6), items=found)
        assert "One seed each" in " ".join(sentences(load(results.store(), "demo").blocks[0]))

    def test_without_items_nothing_is_tested_and_that_is_said(self, tmp_path):
        results = Results(tmp_path)
        base = cell("base")
        results.add(base, scores(0.6))
        results.add(cell("lora", 32, 0, baseline=base.spec_digest), scores(0.8), train_seconds=5.0)
        assert "not stored, so no difference can be tested" in " ".join(
            sentences(load(results.store(), "demo").blocks[0])
        )


class TestFormat:
    def test_numbers(self):
        assert number(-0.123) == "−0.12"
        assert number(0.2, signed=True) == "+0.20"
        assert number(-0.001, signed=True) == "+0.00"
        assert with_error(0.8, None) == "0.80"
        assert with_error(None, 0.1) == "n/a"
        assert [share(part) for part in (1.0, 0.018, 0.000064, 0.0)] == ["100%", "1.8%", "0.0064%", "0%"]
        assert [size(count) for count in (512, 40960, 9 * MIB, 3 * 1024**3)] == [
            "512 B", "40 KiB", "9 MiB", "3.0 GiB",
        ]  # fmt: skip


class TestLabels:
    def test_names_of_close_points_do_not_overlap(self):
        points = [(100.0, 100.0), (104.0, 103.0), (98.0, 106.0), (101.0, 97.0)]
        names = ["lora", "prompt_tuning", "layerwise", "full"]
        boxes = [box(spot, 6.3 * len(name)) for spot, name in zip(place(points, names, 400, 300), names, strict=True)]
        assert all(overlap(one, other) == 0 for n, one in enumerate(boxes) for other in boxes[:n])

    def test_names_stay_inside(self):
        ((x, _, align),) = place([(395.0, 150.0)], ["prompt_tuning"], 400, 300)
        assert align == "right" or x < 395


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


class TestHtml:
    def test_it_loads_nothing(self, written):
        tags = Tags()
        tags.feed(written[1])
        names = {tag for tag, _ in tags.found}
        assert not names & {"link", "iframe", "img", "image", "object"}
        assert not any(attributes.get("src") for tag, attributes in tags.found if tag == "script")
        for tag, attributes in tags.found:
            for name in ("src", "href", "xlink:href", "srcset"):
                assert not (attributes.get(name) or "").startswith(("http", "//")), tag
        assert not re.search(r"@import|url\((?!#)", written[1].split("<body>")[0])

    def test_it_escapes_what_users_and_errors_wrote(self, written):
        html = written[1]
        assert "<script>alert" not in html
        assert "&lt;script&gt;alert(1)" in html
        assert "Does &lt;b&gt;parameter-efficient" in html

    def test_a_hostile_label_stays_text(self, tmp_path):
        results = Results(tmp_path / "results")
        base = cell("base")
        results.add(base, scores(0.6, 0.03, -5.0))
        hostile = cell("<script>x</script>|*", 32, 0, baseline=base.spec_digest)
        results.add(hostile, scores(0.8, 0.03, -5.1), train_seconds=5.0, losses=[2.0, 1.0])
        paths = write_report(load(results.store(), "demo"), tmp_path / "out")
        for path in (tmp_path / "out").rglob("*"):
            if path.suffix in (".html", ".md", ".svg"):
                assert "<script>x" not in path.read_text(encoding="utf-8")
        assert r"&lt;script>x&lt;/script>\|\*" in paths.markdown.read_text(encoding="utf-8")

    def test_tables_can_be_read_aloud(self, written):
        tags = Tags()
        tags.feed(written[1])
        assert all(attributes.get("scope") in ("col", "row") for tag, attributes in tags.found if tag == "th")
        count = [tag for tag, _ in tags.found].count
        assert count("caption") == count("table") == 4
        labelled = [attributes for _, attributes in tags.found if attributes.get("role") == "img"]
        assert labelled
        assert all(attributes.get("aria-label") for attributes in labelled)

    def test_reason_provenance_and_how_to_reproduce(self, written):
        for wanted in (
            "oom: resident memory passed 7.5 GiB", "make bench SUITE=demo", "0123456789ab", "uncommitted",
            "torch 2.9.0",
            "left-pad 1.0", "learned nothing",
        ):  # fmt: skip
            assert wanted in written[1]

    def test_plots_change_colour_in_the_dark(self, written):
        pictures = [path.read_text(encoding="utf-8") for path in (written[0] / "plots").glob("*.svg")]
        assert len(pictures) == 5
        for picture in pictures:
            rules = re.findall(r'\.marks \[fill="(#\w+)"\]', picture)
            body = picture.split("</style>")[1]
            assert rules
            assert set(re.findall(r'(?:fill|stroke)="(#\w+)"', body)) <= set(rules)


class TestMarkdown:
    def test_tables_are_well_formed(self, written):
        markdown = written[2]
        lines = [line for line in markdown.splitlines() if line.startswith("|")]
        scores_, winners, fit, facts = 2 * (2 + 8), 2 + 2, 2 + 4, 2 + 11
        assert len(lines) == scores_ + winners + fit + facts
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 3

    def test_it_links_the_plot_beside_it(self, written):
        folder, _, markdown = written
        name, *_ = re.findall(r"\]\(([^)]+\.svg)\)", markdown)
        assert (folder / name).read_text(encoding="utf-8").startswith("<svg")

    def test_reasons_are_escaped(self, written):
        assert "&lt;script>alert(1)&lt;/script> \\| pipe" in written[2]


class TestTerminal:
    @pytest.mark.parametrize("width", [80, 100, 120])
    def test_no_value_is_cut_and_no_line_is_too_long(self, demo_store, width):
        text = printed(demo_store, width)
        assert "…" not in re.sub(r"… and \d more in the report", "", text)
        assert max(map(len, text.splitlines())) <= width
        assert "0.81 ± 0.03" in text
        assert "−0.450 ± 0.065" in text

    def test_narrow_leaves_columns_out_and_says_so(self, demo_store):
        assert "Left out" not in printed(demo_store, 130)
        assert "Left out for lack of width: on front, tokens/s" in printed(demo_store, 90)


def test_the_three_faces_say_the_same(demo_store, written, block):
    faces = [unescape(re.sub(r"\\", "", face)) for face in (written[1], written[2], printed(demo_store, 200))]
    for row in block.rows:
        for text in texts(block, row):
            assert all(text in face for face in faces), text


def test_an_unknown_suite_names_the_nearest(demo_store):
    with pytest.raises(StoreError, match=r"Did you mean 'demo'\?"):
        load(demo_store, "dem")


def test_a_run_in_which_everything_failed_still_reports(tmp_path):
    results = Results(tmp_path / "results")
    results.add(cell("base"), status=Status.FAILED, reason="no model")
    results.add(cell("lora", 32, 0), status=Status.DIVERGED, reason="loss is nan", losses=[math.nan])
    store = results.store()
    html = write_report(load(store, "demo"), tmp_path / "out").html.read_text(encoding="utf-8")
    assert "No method has finished" in html
    assert "diverged: loss is nan" in html
    printed(store, 100)


def test_a_run_without_any_attempt_still_reports(tmp_path):
    results = Results(tmp_path / "results")
    results.member(cell("lora", 32, 0))
    html = write_report(load(results.store(), "demo"), tmp_path / "out").html.read_text(encoding="utf-8")
    assert "missing" in html


def test_one_flagged_seed_marks_the_row_and_half_of_them_take_it_out(tmp_path):
    results = Results(tmp_path)
    for label, seeds in (("lora", 2), ("full", 3)):
        for seed in range(seeds):
            flags = [Flag("learned_nothing", {})] if seed == 1 else []
            results.add(cell(label, 32, seed), scores(0.8 - 0.2 * (seed == 1)), flags=flags)
    (only,) = load(results.store(), "demo").blocks
    assert [(row_of(only, label).learned, row_of(only, label).doubtful) for label in ("lora", "full")] == [
        (False, True), (True, True),
    ]  # fmt: skip
    assert [texts(only, row_of(only, label))[0] for label in ("lora", "full")] == ["lora †", "full †"]


def test_experts_of_another_task_have_their_own_block(tmp_path):
    results = Results(tmp_path)
    results.add(cell("merged", 32, 0), scores(0.8))
    results.add(cell("merged.lora", 32, 0, task="other"), ())
    blocks = load(results.store(), "demo").blocks
    assert [block.task for block in blocks] == ["topic", "other"]
    assert texts(blocks[1], blocks[1].rows[0])[2] == "n/a"


def test_a_task_that_a_row_was_trained_on_is_marked_and_no_forgetting(tmp_path):
    from harness.records import Score
    from harness.report.columns import texts
    from harness.report.sections.answer import loss_of
    from harness.report.sections.footnotes import footnotes

    results = Results(tmp_path)
    base = cell("base")
    results.add(base, scores(0.6, 0.03, -5.2, 0.4))
    results.add(cell("lora", 32, 0, baseline=base.spec_digest), scores(0.8, 0.03, -5.3, 0.3), train_seconds=5.0)
    both = [
        Score(score.task, "task" if score.task == OTHER else score.role, *list(vars(score).values())[2:])
        for score in scores(0.7, 0.03, -5.3, 0.8)
    ]
    results.add(cell("merged", 32, 0, baseline=base.spec_digest), both, train_seconds=5.0)
    report = load(results.store(), "demo")
    (block,) = report.blocks
    merged = row_of(block, "merged")
    assert merged.retained[OTHER].learned
    assert loss_of(merged, OTHER) is None
    assert sum(text.endswith("§") for text in texts(block, merged)) == 1
    assert any(note.text.startswith("§") for note in footnotes(report))


NOISE, HARD = {"corrupt": {"labels": 0.4}}, {"select": "hard"}


def spoilt_store(folder):
    """Two labels on clean data, on noisy labels and on hard examples, with two seeds; one noisy cell has not run."""
    results = Results(folder)
    base = cell("base")
    results.add(base, scores(0.5, 0.01, -5.2))
    for label, accuracies in (("full", (0.9, 0.4, 0.88)), ("lora", (0.8, 0.7, 0.6))):
        for data, acc in zip((None, NOISE, HARD), accuracies, strict=True):
            for seed in (0, 1):
                one = cell(label, 32, seed, baseline=base.spec_digest, data=data)
                if (label, data, seed) == ("lora", NOISE, 1):
                    results.member(one)
                else:
                    results.add(one, scores(acc + 0.02 * seed, 0.01, -5.3), train_seconds=5.0, losses=[2.0, 1.0])
    return results.store()


def test_data_of_another_quality_is_another_table_and_never_averaged(tmp_path):
    report = load(spoilt_store(tmp_path / "results"), "demo")
    (block,) = report.blocks
    assert block.tables == ((32, ""), (32, "labels 0.4"), (32, "select hard"))
    shown = {point: {row.label: row for row in block.at(*point)} for point in block.tables}
    assert [rows.keys() for rows in shown.values()] == [{"base", "full", "lora"}] * 3
    assert [rows["full"].score.value for rows in shown.values()] == pytest.approx([0.91, 0.41, 0.89])
    assert [rows["full"].seeds for rows in shown.values()] == [2, 2, 2]
    assert texts(block, shown[32, "labels 0.4"]["lora"])[1] == "1 of 2"  # the one that has not run is in its own row
    assert set(block.curves) == {(label, *point) for label in ("full", "lora") for point in block.tables}


def test_what_stands_bad_data_is_said(tmp_path):
    (block,) = load(spoilt_store(tmp_path / "results"), "demo").blocks
    said = sentences(block)
    assert said[0].startswith("With 32 examples, full scores best on topic: acc 0.91")
    changes = [line for line in said if "against clean balanced data" in line]
    assert changes == [
        "With labels 0.4, acc changes against clean balanced data: lora −0.11 ± 0.02, full −0.50 ± 0.02.",
        "With select hard, acc changes against clean balanced data: full −0.02 ± 0.02, lora −0.20 ± 0.02.",
    ]


def test_without_clean_data_the_report_says_what_its_data_is(tmp_path):
    results = Results(tmp_path / "results")
    base = cell("base")
    results.add(base, scores(0.5))
    results.add(cell("lora", 32, 0, baseline=base.spec_digest, data=NOISE), scores(0.8), train_seconds=5.0)
    (block,) = load(results.store(), "demo").blocks
    assert sentences(block)[0].startswith("With 32 examples (labels 0.4), lora scores best")


def test_every_face_of_the_report_names_the_quality(tmp_path):
    store = spoilt_store(tmp_path / "results")
    paths = write_report(load(store, "demo"), tmp_path / "out")
    for text in (paths.html.read_text(encoding="utf-8"), paths.markdown.read_text(encoding="utf-8")):
        assert "labels 0.4" in text
        assert "select hard" in text
    assert "topic, tiny, 32 training examples, labels 0.4" in printed(store, 140)
    (block,) = load(store, "demo").blocks
    for chart in (losses(block), learning_against_forgetting(block)):
        assert "32 examples, labels 0.4" in json.dumps(spec(chart))


def test_a_loss_of_something_else_is_not_in_the_chart_of_cross_entropies(tmp_path):
    from harness.report.sections.losses import caption

    results = Results(tmp_path / "results")
    base = cell("base", 0)
    results.add(base, scores(0.5, 0.03, -5.0))
    for label in ("lora", "dpo"):
        one = cell(label, 32, 0, baseline=base.spec_digest)
        results.add(one, scores(0.8, 0.03, -5.1), train_seconds=5.0, losses=[2.0, 1.0], answers=label != "dpo")
    (block,) = load(results.store(), "demo").blocks
    assert {row["label"] for row in spec(losses(block))["data"]["values"]} == {"lora"}
    assert caption(block).endswith("Not shown, as their loss is not made of answer tokens: dpo.")


def test_every_face_of_the_report_shows_the_instruments(tmp_path):
    sound = Check("batch_size", "one by one | or together", 1e-6, 1e-4, "ratio")
    bad = Check("same_seed", "trained <b>twice</b>", 0.5, 0.0, "weight")
    broken = Check("null_adapter", "it could not run: no peft", math.nan, 0.0, "")
    results = Results(tmp_path)
    base = cell("base")
    results.add(base, scores(0.6))
    results.add(cell("lora", 32, 0, baseline=base.spec_digest), scores(0.7))
    results.check(sound, bad, broken)
    results.check(bad, env_digest=environment(cpu="another CPU").env_digest)
    results.check(bad, model="another model")
    store = results.store()
    paths = write_report(load(store, "demo"), tmp_path / "out")
    page, markdown = paths.html.read_text(), paths.markdown.read_text()
    summary = "Instruments: 2 of 3 checks FAILED: null_adapter (tiny), same_seed (tiny)."
    assert summary in " ".join(printed(store, 300).split())
    assert summary in page
    assert summary in markdown
    rows = re.findall(
        r'<tr><th scope="row">([\w ]+)</th><td( class="bad")?>(\w+)</td><td>(.*?)</td><td>(.*?)</td>', page
    )
    assert rows == [
        ("null adapter", ' class="bad"', "FAILED", "n/a", ""),
        ("same seed", ' class="bad"', "FAILED", "0.5", "0"),
        ("batch size", "", "passed", "1e-06", "0.0001"),
    ]
    assert "trained &lt;b&gt;twice&lt;/b&gt;" in page
    assert "| batch size | passed | 1e-06 | 0.0001 | ratio | one by one \\| or together |" in markdown
    assert page.count("<caption>tiny, precision auto, attention auto</caption>") == 1


def test_instruments_of_other_settings_are_not_those_of_the_run(tmp_path):
    from dataclasses import replace

    sound = Check("batch_size", "one by one or together", 1e-6, 1e-4, "ratio")
    results = Results(tmp_path)
    results.add(replace(cell("base"), train=TrainSettings(precision="bf16", attention="eager")), scores(0.6))
    results.check(sound, replace(sound, name="same_seed"), precision="bf16", attention="eager")
    results.check(replace(sound, measured=1.0), precision="fp32", attention="eager")
    store = results.store()
    assert [check.name for check in load(store, "demo").checks] == ["batch_size", "same_seed"]
    assert "Instruments: all 2 checks passed." in printed(store, 300)


def test_a_report_without_checks_of_the_instruments_says_so(written):
    _, page, markdown = written
    for text in (page, markdown):
        assert "Instruments: no checks of them are stored for this environment." in text


def retained(results, label, baseline="", *, seed=None, acc=(0.4, 0.5), kl=None, learned=False, **more):
    """A cell with general text (and its KL, where there is one) and two capability tasks, of 4 items each."""
    from results_factory import items

    from harness.records import Score

    role = "task" if learned else "retain"
    found = [
        *scores(0.8, 0.03, -5.3, acc[0]),
        Score("third", role, "acc", acc[1], 0.03, 4, True),
        Score("third", role, "choice_cross_entropy", 1.0, 0.03, 4, False),
    ]
    found = [replace(score, n=4) for score in found]
    if kl is not None:
        found.append(Score(PROSE, "retain", "kl_to_base", *kl, 8, False))
    answers = [items(OTHER, "acc", hits(acc[0])), items("third", "acc", hits(acc[1]))]
    one = cell(label, 0 if label == "base" else 32, seed, baseline=baseline, retain=(PROSE, OTHER, "third"))
    results.add(one, found, items=[item for of in answers for item in of], train_seconds=5.0, **more)
    return one


def hits(share):
    return [1.0 if place < round(4 * share) else 0.0 for place in range(4)]


def vector_store(folder):
    results = Results(folder)
    base = retained(results, "base", acc=(1.0, 0.5), kl=(0.0, 0.0)).spec_digest
    retained(results, "lora", base, seed=0, acc=(0.5, 0.75), kl=(0.02, 0.003))
    retained(results, "lora", base, seed=1, acc=(0.75, 0.75), kl=(0.04, 0.005))
    retained(results, "both", base, seed=0, acc=(0.75, 1.0), kl=(0.5, 0.1), learned=True)
    retained(results, "older", base, seed=0, acc=(1.0, 0.5))
    return results.store()


class TestRetention:
    """Each retained task apart; the divergence from the base, and a mean only beside its parts."""

    def test_the_vector_by_hand(self, tmp_path):
        (block,) = load(vector_store(tmp_path), "demo").blocks
        lora = row_of(block, "lora")
        moved = lora.moved[PROSE]
        assert moved.value == pytest.approx(0.03)
        assert moved.stderr == pytest.approx(
            math.sqrt((0.003**2 + 0.005**2) / 2 + statistics.variance([0.02, 0.04]) / 2)
        )
        assert lora.retained[PROSE].metric == "log_likelihood_per_word"  # the headline stays what it was
        assert [lora.retained[task].gain for task in (OTHER, "third")] == pytest.approx([-0.375, 0.25])
        mean = lora.mean_changes["acc"]
        assert mean.gain == pytest.approx((-0.5 + 0.25 - 0.25 + 0.25) / 4)
        # Of four items paired with the base's: two, one and one of them changed.
        one, two = statistics.stdev([-1, -1, 0, 0]) / 2, statistics.stdev([-1, 0, 0, 0]) / 2
        errors = [math.hypot(one, two) / 2, math.hypot(two, two) / 2]
        spread = statistics.variance([-0.125, 0.0]) / 2
        assert mean.gain_stderr == pytest.approx(math.sqrt(statistics.fmean(e**2 for e in errors) + spread))

    def test_the_columns(self, tmp_path):
        (block,) = load(vector_store(tmp_path), "demo").blocks
        names = headers(block)
        assert names[4:9] == [
            "Δ prose (nats/word)", "Δ other (acc)", "Δ third (acc)", "mean Δ acc", "KL to base (nats/token)",
        ]  # fmt: skip
        shown = {row.label: dict(zip(names, texts(block, row), strict=True)) for row in block.rows}
        assert shown["lora"]["KL to base (nats/token)"] == "0.030 ± 0.011"
        assert shown["older"]["KL to base (nats/token)"] == "n/a"  # from before it was measured
        assert shown["base"]["mean Δ acc"] == shown["base"]["KL to base (nats/token)"] == ""
        assert shown["both"]["mean Δ acc"] == "n/a"  # it learned one of the parts
        assert shown["both"]["Δ third (acc)"].endswith("§")

    def test_without_several_tasks_or_a_comparison_there_is_no_column(self, block):
        assert not any(name.startswith(("mean Δ", "KL to base")) for name in headers(block))

    def test_on_a_narrow_terminal_the_mean_goes_before_its_parts(self, tmp_path):
        from harness.report.columns import SPARE
        from harness.report.terminal import fit

        (block,) = load(vector_store(tmp_path), "demo").blocks
        names = headers(block)
        for width in range(20, 200):
            kept = {names[place] for place in fit(names, [len(name) for name in names], width, SPARE)}
            assert "mean Δ acc" not in kept or {"Δ other (acc)", "Δ third (acc)", "tokens/s"} <= kept
        assert "mean Δ acc" in kept

    def test_what_they_mean_is_said(self, tmp_path):
        from harness.report.sections.footnotes import footnotes

        notes = " ".join(note.text for note in footnotes(load(vector_store(tmp_path), "demo")))
        assert "compare it within one model only" in notes
        assert "read it beside its parts" in notes


# --- costs that are not always known, and predicted memory ---


def costly(tmp_path, contended=False):
    """Two labels of which one has every figure; the parts of its prediction are powers of two, in MiB."""
    results = Results(tmp_path)
    base = cell("base")
    results.add(base, scores(0.6), facts=[Fact("latency_ms_p50", 12.0, "ms", False)])
    parts = ("weights", "gradients", "optimizer", "activations", "scoring", "loading", "process")
    facts = [Fact(f"predicted_{part}_bytes", 2**place * MIB, "B", False) for place, part in enumerate(parts)]
    facts += [Fact("predicted_bytes", 1000 * MIB, "B", False), Fact("mfu", 0.123, "share", True)]
    facts.append(Fact("latency_ms_p50", 34.5, "ms", False))
    for seed in (0, 1):
        results.add(
            cell("lora", 32, seed, baseline=base.spec_digest), scores(0.8), train_seconds=5.0, facts=facts,
            contended=contended, energy=None if contended else 1000.0 + 1000 * seed,
        )  # fmt: skip
    results.add(cell("full", 32, 0, baseline=base.spec_digest), scores(0.8), train_seconds=5.0)
    return results.store()


def test_costs_have_columns_where_some_row_has_them(tmp_path, block):
    (found,) = load(costly(tmp_path), "demo").blocks
    assert headers(found)[-3:] == ["train energy", "MFU", "latency ms"]
    assert [texts(found, row)[-3:] for row in found.rows] == [["", "", "12"], ["1.5 kJ", "12%", "34"], ["", "", ""]]
    assert not {"train energy", "MFU", "latency ms"} & set(headers(block))


def test_times_that_were_disturbed_are_marked(tmp_path):
    (found,) = load(costly(tmp_path, contended=True), "demo").blocks
    assert headers(found)[-2:] == ["MFU", "latency ms"]
    assert texts(found, row_of(found, "lora"))[-2:] == ["12% ‡", "34 ‡"]


def test_memory_is_compared_phase_by_phase(tmp_path):
    (found,) = load(costly(tmp_path), "demo").blocks
    row = row_of(found, "lora")
    measured = {"load": 700, "train": 1536, "evaluate": 900, "peak": 1536}
    predicted = {"load": 64 + 1 + 32, "train": 64 + 1 + 2 + 4 + 8, "evaluate": 64 + 1 + 16, "peak": 1000}
    assert row.memory == {phase: (predicted[phase] * MIB, measured[phase] * MIB) for phase in measured}
    assert memory.columns(found) == ["method", "examples", "load", "train", "evaluate", "peak"]
    (line,) = memory.lines(found)
    assert line[:2] == ["lora", "32"]
    assert line[-1] == "1000 MiB / 1.5 GiB (0.65)"


def test_memory_is_what_torch_allocated_on_a_gpu():
    from types import SimpleNamespace

    from harness.report import measurements

    phases = {"train": {"allocated_bytes": 5, "rss_bytes": 9, "device_bytes": 7}, "evaluate": {"rss_bytes": None}}
    one = SimpleNamespace(phases=phases, facts={"predicted_bytes": 10.0})
    assert measurements.memory([one]) == {"peak": (10.0, 5)}  # of older results there are no parts


def test_every_written_face_has_the_memory(tmp_path, block):
    paths = write_report(load(costly(tmp_path / "results"), "demo"), tmp_path / "report")
    for path in (paths.html, paths.markdown):
        text = path.read_text(encoding="utf-8").replace("\\", "")
        assert memory.TITLE in text
        assert "1000 MiB / 1.5 GiB (0.65)" in text
        assert "1.5 kJ" in text
    assert memory.columns(block) == memory.lines(block) == []


def test_energy_is_told_in_the_unit_that_fits():
    assert [quantity(value, "J") for value in (0.1234, 999.0, 1000.0, 1234567.0)] == [
        "0.123 J",
        "999 J",
        "1.0 kJ",
        "1 234.6 kJ",
    ]
