from __future__ import annotations

import os
from pathlib import Path

import pytest

from forebay.config.document import MAXIMUM_SIZE, key_text, read_document
from forebay.errors import ConfigError, Problem

SAME = {
    "x.toml": '[system]\nname = "shop"\n\n[upstreams.u]\ntargets = [\n  { url = "a" },\n  { url = "b" },\n]\n',
    "x.yaml": "system:\n  name: shop\n\nupstreams:\n  u: {\n    targets: [ {url: a},\n      { url: b }]}\n",
    "x.json": '{"system":\n{"name": "shop"},\n"upstreams":\n{"u":\n{"targets": [\n{"url": "a"},\n{"url": "b"}]}}}',
}


def refused(path: Path, content: str | bytes) -> tuple[Problem, ...]:
    """What is wrong with ``content``."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as caught:
        read_document(path)
    return caught.value.problems


@pytest.mark.parametrize("name", SAME)
def test_all_forms_say_the_same_and_have_lines(tmp_path: Path, name: str) -> None:
    """TOML, YAML and JSON are read alike, and each knows where its keys stand."""
    path = tmp_path / name
    path.write_text(SAME[name])
    document = read_document(path)
    assert document.data == {"system": {"name": "shop"}, "upstreams": {"u": {"targets": [{"url": "a"}, {"url": "b"}]}}}
    assert document.line(("system", "name")) == 2
    assert document.line(("upstreams", "u", "targets", 1, "url")) == 7
    assert document.line(("upstreams", "u", "targets", 1, "weight")) == 7  # what is missing: where it should be
    assert document.line(("nowhere",)) == 0


def test_keys_are_written_as_people_do() -> None:
    """With dots and positions."""
    assert key_text(("upstreams", "users", "targets", 1, "weight")) == "upstreams.users.targets[1].weight"


def test_toml_syntax_has_its_line_and_a_remedy(tmp_path: Path) -> None:
    """A value without quotes is the most frequent mistake."""
    (problem,) = refused(tmp_path / "x.toml", "[system]\nname = shop\n")
    assert problem.line == 2
    assert "not TOML" in problem.message
    assert "quotes" in problem.remedy


def test_toml_that_ends_too_early_names_the_last_line(tmp_path: Path) -> None:
    """The parser says only "end of document"."""
    (problem,) = refused(tmp_path / "x.toml", '[system]\nname = "a"\nx = [1,\n')
    assert problem.line >= 3


def test_yaml_syntax_has_its_line(tmp_path: Path) -> None:
    """A tab is not an indent, and the remedy says what is."""
    (problem,) = refused(tmp_path / "x.yaml", "system:\n\tname: shop\n")
    assert problem.line == 2
    assert "spaces" in problem.remedy


def test_a_yaml_key_given_twice_is_refused(tmp_path: Path) -> None:
    """YAML's parser would silently take the last one."""
    (problem,) = refused(tmp_path / "x.yml", "system:\n  name: a\n  name: b\n")
    assert (problem.key, problem.line) == ("system.name", 3)
    assert "line 2" in problem.remedy


def test_a_yaml_bomb_is_refused(tmp_path: Path) -> None:
    """A few lines of aliases that stand for millions of items cost nothing."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (problem,) = refused(tmp_path / "x.yaml", "\n".join(lines))
    assert "too large" in problem.message


def test_a_yaml_alias_to_itself_is_refused(tmp_path: Path) -> None:
    """It would never end."""
    (problem,) = refused(tmp_path / "x.yaml", "a: &a [*a]\n")
    assert "too large" in problem.message


def test_json_syntax_has_its_line(tmp_path: Path) -> None:
    """As the other two."""
    (problem,) = refused(tmp_path / "x.json", '{"system":\n{,}}')
    assert problem.line == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.ini", "", "unknown kind of file"),
        ("x.toml", b"a = '\xff'", "not UTF-8"),
        ("x.json", "[1]", "not a table"),
        ("x.yaml", "just text", "not a table"),
        ("x.yaml", "a: 2020-13-45", "not YAML"),
        ("x.json", '{"a": ' + "9" * 5000 + "}", "not JSON"),
        ("x.toml", "a = " + "9" * 5000, "not TOML"),
        ("x.yaml", "a: !!python/object:os.system {}", "not YAML"),
        ("x.toml", b"#" * (MAXIMUM_SIZE + 1), "longer than"),
        ("x.toml", "a = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("x.json", "[" * 50000 + "]" * 50000, "nested too deeply"),
        ("x.yaml", "[" * 5000 + "]" * 5000, "nested too deeply"),
    ],
)
def test_what_is_no_configuration_is_refused(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    """Whatever is in the file, the answer is a ConfigError that says what it is."""
    (problem,) = refused(tmp_path / name, content)
    assert message in problem.message


def test_a_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    """With the reason."""
    with pytest.raises(ConfigError, match="no such file"):
        read_document(tmp_path / "nosuch.toml")


def test_an_empty_file_is_an_empty_table(tmp_path: Path) -> None:
    """In YAML as well, where its value is null."""
    path = tmp_path / "x.yaml"
    path.write_text("# nothing\n")
    assert read_document(path).data == {}


@pytest.mark.parametrize("name", SAME)
def test_a_byte_order_mark_is_no_content(tmp_path: Path, name: str) -> None:
    """Some editors begin every file with one."""
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbf" + SAME[name].encode())
    assert read_document(path).line(("system", "name")) == 2


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    """Opening it would wait for somebody who writes."""
    os.mkfifo(tmp_path / "x.toml")
    with pytest.raises(ConfigError, match="not a file"):
        read_document(tmp_path / "x.toml")


def test_a_problem_is_one_printable_line(tmp_path: Path) -> None:
    """Whatever characters its key and its message are made of."""
    path = tmp_path / "x.toml"
    path.write_text('"a\\u001b[2Jb" = 1\n')
    problem = read_document(path).problem(("a\x1b[2Jb",), 'is "x\ny"', 'not "é\0"')
    assert problem == Problem('is "x\\ny"', "a\\x1b[2Jb", 1, 'not "é\\x00"')


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        ("a = {\n  b = 1 }\n", "on one line"),
        ("= 1", "KEY = VALUE"),
        ("a = 1 b = 2", "per line"),
        (r'a = "C:\q"', "twice"),
    ],
)
def test_frequent_mistakes_have_a_remedy(tmp_path: Path, content: str, remedy: str) -> None:
    """What the parser says of them does not tell what to do."""
    (problem,) = refused(tmp_path / "x.toml", content)
    assert remedy in problem.remedy
