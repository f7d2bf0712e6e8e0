"""Environments that differ in some packages: what is linked, what is left out, and what their Python imports."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest
from wheels import doctored

from harness.environment import environment
from harness.execute.environments.installed import conflicts, installed
from harness.execute.environments.make import MadeEnvironment, make_environment
from harness.execute.environments.overlay import Layer, link, tree_of
from harness.execute.environments.resolver import CannotMake, Package, ResolvedSet, pip_reason, with_left_out
from harness.execute.environments.toggle import Between
from harness.suite import EnvironmentRequest, parse_request


def write(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{folder.name}/{name}")
    return folder


def test_a_package_that_differs_stands_in_the_place_of_the_base_s(tmp_path: Path) -> None:
    base = write(tmp_path / "base", "peft/__init__.py", "peft/gone.py", "peft/__pycache__/gone.pyc", "peft-1/RECORD",
                 "torch/__init__.py", "shared/one.py", "shared/other.py")  # fmt: skip
    new = write(tmp_path / "new", "peft/__init__.py", "peft-2/RECORD", "shared/one.py")
    hidden = tree_of(map(PurePosixPath, ["peft/__init__.py", "peft/gone.py", "peft-1/RECORD", "shared/one.py"]))
    target = tmp_path / "target"
    target.mkdir()
    link([Layer(new), Layer(base, hidden)], target)
    found = {str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()}
    assert found["peft/__init__.py"] == "new/peft/__init__.py"
    assert found["shared/one.py"] == "new/shared/one.py"
    assert found["shared/other.py"] == "base/shared/other.py"
    assert "peft/gone.py" not in found
    assert not (target / "peft-1").exists(), "two versions of one package would be found"
    assert (target / "torch").is_symlink(), "what is whole is one link"


def test_a_package_that_is_left_out_leaves_nothing_to_import(tmp_path: Path) -> None:
    base = write(tmp_path / "base", "trl/__init__.py", "trl/__pycache__/x.pyc", "trl-1/RECORD")
    target = tmp_path / "target"
    target.mkdir()
    link([Layer(base, tree_of(map(PurePosixPath, ["trl/__init__.py", "trl-1/RECORD"])))], target)
    assert list(target.iterdir()) == []


def test_requirements_that_are_not_met_are_conflicts() -> None:
    versions = {"datasets": "5.2.0", "huggingface-hub": "0.30.0", "peft": "0.21.2"}
    requires = {
        "datasets": ["huggingface_hub>=1.0", "missing>=3"],
        "peft": ["huggingface-hub>=0.25", 'black>=99; extra == "dev"'],
    }
    assert conflicts(versions, requires) == {"datasets": "datasets 5.2.0 wants huggingface_hub>=1.0, here is 0.30.0"}


def test_a_package_of_the_base_that_does_not_fit_is_left_out_by_name() -> None:
    found = with_left_out([Package("transformers", "4.0.0")])
    assert "peft" not in dict(found.left_out), "it names no bound on transformers"
    assert "trl" in dict(found.left_out)
    assert found.versions()["transformers"] == "4.0.0"
    assert "trl" not in found.versions()


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (
            "ERROR: Could not find a version that satisfies the requirement peft==9 (from versions: 0.1, 0.2)\n"
            "ERROR: No matching distribution found for peft==9",
            "no release fits peft==9 on this Python; the newest are 0.1, 0.2",
        ),
        (
            "The conflict is caused by:\n    a 1 depends on c<1\n    b 2 depends on c>1\n"
            "ERROR: ResolutionImpossible: for help",
            "a 1 depends on c<1; b 2 depends on c>1",
        ),
        ("/usr/bin/python: No module named pip", "python -m ensurepip"),
        ("ERROR: something else", "pip failed: something else"),
    ],
)
def test_pips_reasons(output: str, said: str) -> None:
    assert said in pip_reason(output)


def ends() -> Between:
    def end(name: str, *packages: Package, left_out: tuple[tuple[str, str], ...] = ()) -> MadeEnvironment:
        request = EnvironmentRequest(name)
        return MadeEnvironment(request, Path(sys.executable), environment(1), ResolvedSet(packages, left_out))

    old = end("old", Package("transformers", "4.9", requires=("huggingface-hub<1",)),
              Package("huggingface-hub", "0.9"), left_out=(("trl", "too new"),))  # fmt: skip
    new = end("new", Package("transformers", "5.9", requires=("huggingface-hub>=1",)))
    return Between(old, new, 1)


def test_what_differs_and_what_must_change_together() -> None:
    between = ends()
    assert between.differing == ["transformers", "trl", "huggingface-hub"], "what computes results comes first"
    assert between.with_needed(["transformers"]) >= {"transformers", "huggingface-hub"}
    assert between.change_text("transformers") == "transformers 4.9 → 5.9"
    assert between.change_text("trl").startswith("trl none → ")


@pytest.mark.process
def test_what_is_imported_is_what_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel of the same version is another environment. Nothing of the base changes, and nothing is there twice."""
    monkeypatch.setenv("TUNEBENCH_CACHE", str(tmp_path / "cache"))
    version = installed()["rouge-score"].version
    wheel = doctored(tmp_path, "rouge_score", version, "rouge_score/__init__.py", "", "")
    made = make_environment(parse_request(str(wheel)), 1)
    assert made.about.env_digest != environment(1).env_digest
    assert made.about.packages["rouge_score"].startswith(f"{version} (file ")
    assert made.about.packages["torch"] == environment(1).packages["torch"]
    code = (
        "import rouge_score, importlib.metadata as m; print(rouge_score.__file__); "
        "print([d.version for d in m.distributions(name='rouge_score')])"
    )
    said = subprocess.run([made.python, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert str(tmp_path / "cache") in str(Path(said[0]).resolve())
    assert said[1] == str([version])
    again = make_environment(parse_request(str(wheel)), 1)
    assert again.python == made.python
    shutil.rmtree(tmp_path / "cache")


@pytest.mark.process
def test_what_cannot_be_made_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(CannotMake, match="no release fits peft==0.0.99"):
        make_environment(parse_request("peft==0.0.99"), 1)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("kind", ["folder", "commit"])
def test_a_folder_and_a_commit_are_packages_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A project of one's own is built by pip; of a commit, what is committed."""
    monkeypatch.setenv("TUNEBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "1")  # the tests have no network: setuptools is here
    folder = tmp_path / "rouge"
    (folder / "rouge_score").mkdir(parents=True)
    (folder / "rouge_score" / "__init__.py").write_text("own = True\n")
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "rouge_score"\nversion = "99.1"\n[tool.setuptools]\npackages = ["rouge_score"]\n'
    )
    text = str(folder)
    if kind == "commit":
        git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
        for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"]):
            subprocess.run([*git, *words], check=True)
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        (folder / "rouge_score" / "__init__.py").write_text("own = False\n")  # not committed
        text = f"rouge_score @ git+file://{folder}@{commit}"
    made = make_environment(parse_request(text), 1)
    version = made.about.packages["rouge_score"]
    assert version.startswith("99.1")
    code = "import rouge_score, sys; print(rouge_score.own, rouge_score.__file__)"
    said = subprocess.run([str(made.python), "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said[0] == "True"
    assert str(tmp_path / "cache") in said[1]


def test_an_environment_sees_this_programs_code_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed tunebench lies among the base's packages, of which an isolated environment may see none."""
    from harness.execute.environments import overlay

    for name in ("checkout", "site-packages"):
        (tmp_path / name / "harness").mkdir(parents=True)
        (tmp_path / name / "other").mkdir()
        (tmp_path / f"made-{name}").mkdir()
    monkeypatch.setattr(overlay, "package_folders", lambda: [tmp_path / "site-packages"])
    overlay.share_tunebench(tmp_path / "made-checkout", tmp_path / "checkout" / "harness")
    overlay.share_tunebench(tmp_path / "made-site-packages", tmp_path / "site-packages" / "harness")
    assert (tmp_path / "made-checkout" / "tunebench.pth").read_text() == f"{tmp_path / 'checkout'}\n"
    (only,) = (tmp_path / "made-site-packages").iterdir()
    assert only.resolve() == tmp_path / "site-packages" / "harness"
