"""Mark-up goes and what it marks stays; lines of many rows go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from luthier.chat.messages import Message
from luthier.data.engine.batch import apply_edits
from luthier.data.engine.corpus import InMemoryRows
from luthier.data.ops.boilerplate import Boilerplate
from luthier.data.ops.markup import Markup
from luthier.data.row import Row

Make = Callable[..., Any]
Write = Callable[..., str]


@pytest.mark.parametrize(
    ("marked", "plain"),
    [
        ("[b]now[/b] and [B]then[/B]", "now and then"),
        ("[url=https://a.example/x]the page[/url]", "the page"),
        ("[list][*]one\n[*]two[/list]", "- one\n- two"),
        ("see option [b] and [i]", "see option [b] and [i]"),
        ("a[i] = b[j]", "a[i] = b[j]"),
        ("{color:red}late{color} {noformat}x = 1{noformat}", "late x = 1"),
        ("[the page|https://a.example/x] says", "the page says"),
        ("h2. Steps\nfirst", "Steps\nfirst"),
        ("look: !screen.png|thumbnail!", "look: "),
        ("a {code} word", "a {code} word"),
        ("great! see a.png !", "great! see a.png !"),
        ("<https://a.example|the page> or <mailto:jo@a.example|jo>", "the page or jo"),
        ("<https://a.example>", "https://a.example"),
        ("a < b | c > d", "a < b | c > d"),
        ("**bold** stays as Markdown", "**bold** stays as Markdown"),
        ("[b][i]both[/i][/b]", "both"),
    ],
)
def test_markup(marked: str, plain: str) -> None:
    assert Markup().clean(marked) == plain


def test_markdown_goes_when_asked() -> None:
    text = "# Title\n**bold** and `code`, [a page](https://a.example), ![](https://a.example/i.png) 2 ** 3 ** 4"
    assert Markup(dialects=("markdown",)).clean(text) == "Title\nbold and code, a page,  2 ** 3 ** 4"


@pytest.mark.parametrize("dialects", [("bbcode", "jira", "slack"), ("markdown",)])
def test_code_keeps_what_looks_like_markup(dialects: tuple[Any, ...]) -> None:
    code = "```python\n# Get it\nprint(f'{code} {code}', 2**3**4, '[b]x[/b] <https://a.example|x>')\n```"
    assert Markup(dialects=dialects).clean(f"See:\n{code}\nbye") == f"See:\n{code}\nbye"


def test_markup_around_code_goes() -> None:
    assert Markup().clean("[b]see `[i]x[/i]` now[/b] \ue000") == "see `[i]x[/i]` now \ue000"
    assert Markup().clean("[the page|https://a.example/`x`] says") == "[the page|https://a.example/`x`] says"


def _rows(texts: list[str]) -> list[Row]:
    return [
        Row(n, f"{n:016x}", "csv", "f.csv", n + 2, "chat",
            (Message(role="user", content=text), Message(role="assistant", content="yes")))
        for n, text in enumerate(texts)
    ]  # fmt: skip


def _cleaned(operator: Boilerplate, texts: list[str]) -> list[str]:
    edits = operator.settle(InMemoryRows(operator, _rows(texts))).edits
    return [apply_edits(text, edits.get(place, [])) for place, text in enumerate(texts)]


def test_lines_of_many_rows_go_and_rare_ones_stay() -> None:
    footer = "Please do not reply to this e-mail (ticket #{n})."
    texts = [f"Question {'abcdefghijklmnopqrst'[n]} of mine?\nThanks a lot\n\n{footer.format(n=n)}" for n in range(20)]
    texts += ["Please do not reply to this e-mail (ticket #9).", "A line of one row only.\nAnother line of one row."]
    cleaned = _cleaned(Boilerplate(), texts)
    assert cleaned[0] == "Question a of mine?\nThanks a lot"
    assert cleaned[-2:] == texts[-2:]
    assert _cleaned(Boilerplate(min=30), texts) == texts
    assert _cleaned(Boilerplate(share=0.99), texts) == texts
    assert _cleaned(Boilerplate(of=("assistant",)), texts) == texts


def test_answers_keep_the_steps_that_they_have_in_common() -> None:
    """Unless they are asked for: what comes back in answers is what is to be learnt, and documents answer nobody."""
    ends = "abcdefghijklmnopqrst"
    texts = [f"We can help.\n1. Log in to your account.\n2. Open page {end} of it." for end in ends]
    asked = [
        replace(row, messages=(Message(role="user", content="Help?"), Message(role="assistant", content=text)))
        for row, text in zip(_rows(texts), texts, strict=True)
    ]
    documents = [replace(row, messages=row.messages[1:]) for row in asked]

    def edited(operator: Boilerplate, rows: list[Row]) -> int:
        return len(operator.settle(InMemoryRows(operator, rows)).edits)

    assert edited(Boilerplate(), asked) == 0
    assert edited(Boilerplate(of=("user", "assistant")), asked) == len(texts)
    assert edited(Boilerplate(), documents) == len(texts)


@pytest.mark.parametrize("greeting", ["Hello,", "Dear {},", "Guten Tag Frau Dr. {}!", "{}様，"])
def test_lines_that_are_all_a_turn_says_stay(greeting: str) -> None:
    """Mails that differ in a number and a name alone are no boilerplate: nothing but a greeting would be left."""
    names = [greeting.format("ABCDEFGHIJKLMNOPQRST"[n] * 5) for n in range(20)]
    texts = [f"{name}\n\nmy order {1000 + n} has not arrived yet." for n, name in enumerate(names)]
    assert _cleaned(Boilerplate(), texts) == texts
    longer = [f"{text}\nThe {'ABCDEFGHIJKLMNOPQRST'[n] * 5} one is blue." for n, text in enumerate(texts)]
    assert _cleaned(Boilerplate(), longer) == [text.replace(text.split("\n")[2] + "\n", "") for text in longer]


@pytest.mark.parametrize(
    "line",
    [
        "using namespace std;", "    if __name__ == '__main__':", "response = requests.get(url)",
        "console.log(result);",
        "public static void main(String[] args) {", "import matplotlib.pyplot as plt", "for i in range(len(numbers)):",
        "from collections import Counter", "with open(filename, 'r') as file:", "#include <algorithm>",
        "```\nnpm install something-else\n```",
    ],
)  # fmt: skip
def test_lines_of_code_that_come_back_stay(line: str) -> None:
    """Every C++ program of a set lost `using namespace std;`."""
    texts = [f"Write a program about {'abcdefghijklmnopqrst'[n] * 3} now\n{line}\nand so on" for n in range(20)]
    assert _cleaned(Boilerplate(), texts) == texts


@pytest.mark.parametrize(
    "line",
    [
        "Return this form to the address below.", "For more information visit our page:",
        "Public holidays: closed all day", "Import duties may apply to this parcel",
        "If you have any questions, call us:", "Please do not reply (ticket 12).",
        "CAUTION: this mail comes from outside", "此邮件由系统自动发送，请勿直接回复此邮件，谢谢合作",
    ],
)  # fmt: skip
def test_lines_of_prose_that_come_back_go(line: str) -> None:
    texts = [f"Question about {'abcdefghijklmnopqrst'[n] * 3} now, please\n\n{line}" for n in range(20)]
    assert _cleaned(Boilerplate(), texts) == [text.partition("\n")[0] for text in texts]


def test_boilerplate_tells_what_it_did(make: Make, write: Write) -> None:
    rows = [{"prompt": f"Question number {n}?\nSent by the web form.", "completion": f"answer {n}"} for n in range(12)]
    source = {"kind": "jsonl", "path": write("t.jsonl", rows)}
    made = make(source=source, ops=["boilerplate", "exact_dedup"], split={"test": 0}, task="text")
    assert made.summary.edited == {"boilerplate": 12}
    assert "1 line that stands in 10 rows or more" in made.notes
    assert not any("web form" in text for text in made.texts())
    assert set(made.events["reason"]) == {"boilerplate"}
