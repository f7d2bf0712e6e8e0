"""What `--with` and `environments:` may say."""

from pathlib import Path

import pytest

from harness.errors import SuiteError, UserError
from harness.suite import CURRENT, load_suite, package_names, parse_request

SUITE = """\
version: 1
models: [m]
tasks: [{learn: t, sizes: [8]}]
methods: {full: {}}
train: {steps: 1}
"""


@pytest.mark.parametrize(
    ("text", "requirements"),
    [
        ("peft==0.20.0", ("peft==0.20.0",)),
        ("peft==0.20.0,transformers==5.20.0", ("peft==0.20.0", "transformers==5.20.0")),
        ("peft>=0.20,<0.21, trl[quantization,vllm]==1.0", ("peft>=0.20,<0.21", "trl[quantization,vllm]==1.0")),
        ("git+file:///somewhere@abc", ("git+file:///somewhere@abc",)),
        ("peft @ git+file:///somewhere@abc", ("peft @ git+file:///somewhere@abc",)),
        (CURRENT, ()),
    ],
)
def test_forms(text: str, requirements: tuple[str, ...]) -> None:
    request = parse_request(text)
    assert request.requirements == requirements
    assert request.is_base == (text == CURRENT)


def test_a_wheel_and_a_folder_are_found_from_the_folder_they_are_named_in(tmp_path: Path) -> None:
    (tmp_path / "peft-0.21.3-py3-none-any.whl").touch()
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "pyproject.toml").touch()
    request = parse_request("./peft-0.21.3-py3-none-any.whl,./checkout", base=tmp_path)
    assert request.requirements == (str(tmp_path / "peft-0.21.3-py3-none-any.whl"), str(tmp_path / "checkout"))
    assert package_names(request.requirements) == ("peft",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("peft==0.20.0,,trl", "an empty part"),
        ("peft=0.20.0", "write two equal signs, peft==0.20.0"),
        ("peft==", "takes a requirement"),
        ("./nothing.whl", "there is no file or folder"),
        ("current,peft==0.20.0", "stands alone"),
        ("peft ==0.20 .0", "takes a requirement"),
    ],
)
def test_mistakes_name_the_part(text: str, said: str) -> None:
    with pytest.raises(UserError, match="--with") as error:
        parse_request(text)
    assert said in str(error.value)


def test_a_folder_that_is_no_project(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pyproject"):
        parse_request(str(tmp_path))


def test_a_suite_lists_environments_and_a_matrix(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(SUITE + 'environments: [current, {peft: ["0.20.0", "0.21.2"], trl: ["1.0"]}]\n')
    names = [request.name for request in load_suite(path).environments]
    assert names == ["current", "peft==0.20.0, trl==1.0", "peft==0.21.2, trl==1.0"]


def test_mistakes_in_a_suite_are_reported_together_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(SUITE + "environments:\n  - peft=0.20\n  - {peft: 0.20}\n  - 7\n  - current\n  - current\n")
    with pytest.raises(SuiteError) as error:
        load_suite(path)
    said = str(error.value)
    assert f"{path}:7: peft=0.20: write two equal signs" in said
    assert f"{path}:8: " in said
    assert "Quote it" in said
    assert f"{path}:9: got 7" in said
    assert "current is listed twice" in said
