# SPDX-License-Identifier: Apache-2.0
"""Templates of --format: what people paste works as docker's does, everything else is refused with what works."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.cli.template import FUNCTIONS, Template
from oakum.errors import InvalidArgument, NotFound, OakumError

LABELS = {"com.example.tier": "front", "app": "web"}
WEB = {
    "Name": "/web",
    "State": {"Status": "running", "Running": True, "Pid": 7, "Error": ""},
    "Config": {"Labels": LABELS, "Env": ["A=1", "B=2"], "Cmd": []},
    "NetworkSettings": {
        "Networks": {"blue": {"IPAddress": "10.1.0.2"}, "amber": {"IPAddress": "10.2.0.2"}},
        "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "90/udp": []},
    },
    "Label": lambda name: LABELS.get(name, ""),
    "Nothing": None,
}


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("{{.Name}}", "/web"),
        ("{{ .State.Status }}/{{.State.Running}}/{{.State.Pid}}", "running/true/7"),
        ("{{json .State}}", '{"Status":"running","Running":true,"Pid":7,"Error":""}'),
        ("{{.State | json}}", '{"Status":"running","Running":true,"Pid":7,"Error":""}'),
        ("{{.Config.Env}} {{.Config.Labels}}", "[A=1 B=2] map[app:web com.example.tier:front]"),
        ('{{index .Config.Labels "com.example.tier"}}', "front"),
        ('{{index .Config.Labels "absent"}}', ""),
        ('{{.Label "app"}}', "web"),
        ("{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", "10.2.0.2 10.1.0.2 "),
        (
            '{{range $n, $at := .NetworkSettings.Networks}}{{$n}}={{$at.IPAddress}}{{"\\n"}}{{end}}',
            "amber=10.2.0.2\nblue=10.1.0.2\n",
        ),
        ('{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}', "8080"),
        (
            "{{range $p, $c := .NetworkSettings.Ports}}{{if $c}}{{$p}}->{{(index $c 0).HostPort}}{{end}}{{end}}",
            "80/tcp->8080",
        ),
        ("{{range .Config.Cmd}}{{.}}{{else}}none{{end}}", "none"),
        ("{{range $i, $e := .Config.Env}}{{$i}}:{{$e}};{{end}}", "0:A=1;1:B=2;"),
        ("{{range .Config.Env}}{{$.Name}}{{println .}}{{end}}", "/webA=1\n/webB=2\n"),
        ("{{with .State}}{{.Pid}}{{end}}", "7"),
        ("{{if .State.Error}}bad{{else if .State.Running}}up{{else}}down{{end}}", "up"),
        ('{{if and .State.Running (eq .State.Status "running")}}y{{end}}', "y"),
        ('{{if not .State.Error}}{{printf "%s|%-4d|%q" .Name .State.Pid "x"}}{{end}}', '/web|7   |"x"'),
        ('{{join .Config.Env ","}} {{upper .State.Status}} {{len .Config.Env}}', "A=1,B=2 RUNNING 2"),
        ("a {{- .Name -}} b", "a/webb"),
        ("{{/* said to nobody */}}{{.Nothing}}", "<no value>"),
        ("no action, only {text}", "no action, only {text}"),
    ],
)
def test_what_people_paste_is_written_as_docker_writes_it(text: str, written: str) -> None:
    assert Template(text).render(WEB) == written


def test_json_of_everything_leaves_methods_out() -> None:
    assert '"Label"' not in Template("{{json .}}").render(WEB)


def test_backslashes_outside_of_actions_count_only_where_lists_are_formatted() -> None:
    assert Template(r"{{.Name}}\t{{.Name}}\n", escapes=True).render(WEB) == "/web\t/web\n"
    assert Template(r"{{.Name}}\t").render(WEB) == r"/web\t"


def test_what_comes_from_outside_is_made_fit_to_be_shown_and_the_template_is_not() -> None:
    assert Template("\x1b{{.a}}").render({"a": "\x1b[2J"}, show=repr) == "\x1b'\\x1b[2J'"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{{.Name", "{{ without }}"),
        ("{{.Name}} }}", "{{ without }}"),
        ("{{}}", "an empty {{}}"),
        ("{{range .X}}", "{{range}} without {{end}}"),
        ("{{end}}", "{{end}} without"),
        ("{{else}}", "without {{if}}"),
        ('{{template "x"}}', "no function 'template'"),
        ("{{define}}", "no function 'define'"),
        ("{{.Name | nope}}", "no function 'nope'"),
        ("{{$x := .Name}}", "':=' is not understood"),
        ("{{(.Name}}", "( without )"),
        ("{{.Name)}}", "')' is not understood"),
        ("{{#}}", "'#' is not understood"),
        ("{{$x}}", "no variable $x"),
        ("{{index .Config.Env 9}}", "index"),
        ("{{index .Config.Env}}{{index .Name .Name}}", "nothing at"),
        ("{{upper}}", "upper"),
        ('{{.Name "x"}}', "is no function"),
        ("{{range .Name}}{{end}}", "range needs a list"),
        ("{{if .Name}}" * 30 + "{{end}}" * 30, "too deeply nested"),
    ],
)
def test_what_is_not_known_is_refused_with_what_works(text: str, cause: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Template(text).render(WEB)
    assert cause in caught.value.cause
    assert "{{.Field.Field}}" in caught.value.hint


def test_a_wrong_field_gets_the_right_ones() -> None:
    with pytest.raises(NotFound, match=r"no field \.State\.Statu") as caught:
        Template("{{.State.Statu}}").render(WEB)
    assert caught.value.hint == "there are: .Status .Running .Pid .Error"


_WORDS = st.sampled_from(
    [
        *[
            "{{",
            "}}",
            ".",
            ".Name",
            "$",
            "$x",
            "range",
            "if",
            "end",
            "else",
            "(",
            ")",
            "|",
            ":=",
            ",",
            '"a"',
            "3",
            "-",
            ".Config.Env",
            "\\n",
            "/*",
        ],
        " ",
        *FUNCTIONS,
    ]
)


@given(st.lists(_WORDS, max_size=14).map(" ".join), st.booleans())
def test_any_template_is_written_or_refused(text: str, escapes: bool) -> None:
    try:
        assert isinstance(Template(text, escapes=escapes).render(WEB), str)
    except OakumError:
        return
