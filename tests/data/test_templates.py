"""Templates cannot reach beyond their document, and are rendered as lm-eval renders them."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
import pytest

from harness.data import load_task
from harness.data.templates import use_sandbox

ATTACKS = [
    "{{ cycler.__init__.__globals__.os.system('touch MARK') }}",
    "{{ lipsum.__globals__['os'].popen('touch MARK').read() }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ (text|attr('__class__')).__mro__ }}",
    "{{ [text]|map(attribute='__class__')|list }}",
    "{{ '{0.__class__.__mro__}'.format(text) }}",
    "{{ '{x.__class__}'.format_map({'x': text}) }}",
    "{{ self.__init__.__globals__ }}",
    "{{ joiner.__init__.__globals__.__builtins__.__import__('os').system('touch MARK') }}",
    "{{ namespace.__init__.__globals__ }}",
    "{% set x = cycler %}{{ x['__init__']['__globals__'] }}",
    "{{ text.__reduce_ex__(2) }}",
    "{% for i in range(1000000000) %}{% endfor %}",
    "{{ 'a' * 1000000000 }}",
    "{{ 9 ** 99999 }}",
    "{% include 'x' %}",
    "{{ text|regex_replace('.', cycler.__init__) }}",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_template_reaches_nothing(attack: str, tmp_path: Path) -> None:
    from lm_eval.utils import apply_template

    use_sandbox()
    try:
        text = apply_template(attack.replace("MARK", str(tmp_path / "MARK")), {"text": "a"})
    except (jinja2.TemplateError, OverflowError, TypeError) as error:
        text = str(error)
    assert not re.search(r"<class|<function|<module|built-in", text)
    assert len(text) < 1000
    assert not (tmp_path / "MARK").exists()


def test_a_task_with_such_a_template_is_refused(project: Path) -> None:
    path = project / "suites" / "tasks" / "names.yaml"
    mark = project / "ran"
    attack = f"{{{{ cycler.__init__.__globals__.os.system('touch {mark}') }}}}"
    path.write_text(f'{path.read_text()}\ndoc_to_text: "{attack}"\n')
    with pytest.raises(Exception, match="unsafe"):
        load_task(path)
    assert not mark.exists()


class Image:
    """A value of a document whose method writes a file."""

    def save(self, path: str) -> None:
        Path(path).touch()


def test_a_method_that_writes_a_file_cannot_be_called(project: Path) -> None:
    from lm_eval.utils import apply_template

    use_sandbox()
    with pytest.raises(Exception, match="unsafe"):
        apply_template("{{ image.save('written') }}", {"image": Image()})
    assert not Path("written").exists()


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{text.split()[:2]|join(' ')}}\n", "a b\n"),
        ("{{ text.strip().upper().replace('A', 'x') }}", "x B C"),
        ("{{ 'is {}'.format(number * 2) }}", "is 4"),
        ("{% for key, value in table.items() %}{{loop.index}}{{key}}{{value}}{% endfor %}", "1k1"),
        ("{{ text|regex_replace('b', 'd') }}", "a d c"),
        ("{% set found = [] %}{% set _ = found.append(1) %}{{ found|length }}{{ '-' * 3 }}", "1---"),
        ("{% macro twice(x) %}{{x}}{{x}}{% endmacro %}{{ twice('a') }}", "aa"),
    ],
)
def test_what_tasks_do_still_works(template: str, text: str) -> None:
    from lm_eval.utils import apply_template

    use_sandbox()
    assert apply_template(template, {"text": "a b c", "number": 2, "table": {"k": 1}}) == text
