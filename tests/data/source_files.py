"""A small file of every kind that a source reads: the source's settings, the lines of its rows, and the rows."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from media import sound
from tests.hub import COMMIT

Made = tuple[dict[str, Any], list[int], list[dict[str, Any]]]

ROWS = [{"text": f"question {n}", "answer": f"a{n}", "stars": n} for n in range(8)]


def _json(folder: Path) -> Made:
    (folder / "rows.json").write_text(json.dumps(ROWS, indent=1))
    return {"kind": "json", "path": "rows.json"}, [2 + 5 * n for n in range(len(ROWS))], ROWS


def _mediafolder(folder: Path) -> Made:
    """Sounds beside a table of them."""
    (folder / "sounds").mkdir()
    for row in ROWS:
        (folder / "sounds" / f"{row['stars']}.wav").write_bytes(sound(seed=row["stars"]))
    lines = [json.dumps({"file_name": f"{row['stars']}.wav", **row}) for row in ROWS]
    (folder / "sounds" / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return {"kind": "mediafolder", "path": "sounds"}, list(range(1, len(ROWS) + 1)), ROWS


def _webdataset(folder: Path) -> Made:
    """A tar of a text and a table of columns for each row."""
    with tarfile.open(folder / "rows.tar", "w") as packed:
        for row in ROWS:
            for ending, text in (("txt", str(row["text"])), ("json", json.dumps({**row, "text": row["text"]}))):
                info = tarfile.TarInfo(f"part/{row['stars']:04}.{ending}")
                info.size = len(text)
                packed.addfile(info, io.BytesIO(text.encode()))
    return {"kind": "webdataset", "path": "rows.tar"}, list(range(1, len(ROWS) + 1)), ROWS


def _arrow(folder: Path) -> Made:
    pl.DataFrame(ROWS).write_ipc(folder / "rows.arrow")
    return {"kind": "arrow", "path": "rows.arrow"}, list(range(1, len(ROWS) + 1)), ROWS


def _excel(folder: Path) -> Made:
    write_xlsx(folder / "rows.xlsx", [list(ROWS[0]), *([*row.values()] for row in ROWS)])
    return {"kind": "excel", "path": "rows.xlsx"}, list(range(2, len(ROWS) + 2)), ROWS


def _text(folder: Path) -> Made:
    (folder / "guide.md").write_text("# One\n\nFirst.\n\n# Two\n\nSecond.\nGoes on.\n\n# Three\nThird.\n")
    rows = [
        {"text": "# One\n\nFirst.", "document": "guide.md", "piece": 1, "heading": "One"},
        {"text": "# Two\n\nSecond.\nGoes on.", "document": "guide.md", "piece": 2, "heading": "Two"},
        {"text": "# Three\nThird.", "document": "guide.md", "piece": 3, "heading": "Three"},
    ]
    return {"kind": "text", "path": "guide.md", "chunk_by": "heading"}, [1, 5, 10], rows


def _html(folder: Path) -> Made:
    (folder / "page.html").write_text(
        "<!doctype html><html><head><title>Page</title></head><body><h1>One</h1><p>First.</p><h1>Two</h1><p>Second.</p>"
    )
    return (
        {"kind": "html", "path": "page.html", "main": False},
        [1],
        [{"text": "One\n\nFirst.\n\nTwo\n\nSecond.", "document": "page.html", "piece": 1}],
    )


def _pdf(folder: Path) -> Made:
    write_pdf(folder / "guide.pdf", ["First page.", "Second page."])
    rows = [{"text": f"{n} page.", "document": "guide.pdf", "piece": p} for p, n in enumerate(("First", "Second"), 1)]
    return {"kind": "pdf", "path": "guide.pdf", "chunk_by": "page"}, [1, 2], rows


def _docx(folder: Path) -> Made:
    import docx

    document = docx.Document()
    document.add_heading("One", 1)
    document.add_paragraph("First.")
    document.add_heading("Two", 1)
    table = document.add_table(1, 2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "a", "b"
    document.save(str(folder / "guide.docx"))
    rows = [
        {"text": "One\n\nFirst.", "document": "guide.docx", "piece": 1, "heading": "One"},
        {"text": "Two\n\na | b", "document": "guide.docx", "piece": 2, "heading": "Two"},
    ]
    return {"kind": "docx", "path": "guide.docx", "chunk_by": "heading"}, [1, 3], rows


TURNS = [{"role": "user", "content": "It broke."}, {"role": "assistant", "content": "Try again."}]


def _mbox(folder: Path) -> Made:
    mails = [
        *(("ann@x.example", f"help {n}", f"<{n}@x>", "", "It broke.") for n in range(3)),
        *(("desk@shop.example", f"Re: help {n}", f"<r{n}@shop>", f"<{n}@x>", "Try again.") for n in range(3)),
    ]
    (folder / "box.mbox").write_text("".join(as_mail(*mail, minute=n) for n, mail in enumerate(mails)))
    rows = [{"messages": TURNS, "subject": f"help {n}", "mails": 2, "left_out": 0} for n in range(3)]
    return {"kind": "mbox", "path": "box.mbox"}, [1 + 9 * n for n in range(3)], rows


def as_mail(sender: str, subject: str, key: str, answers: str, text: str, *, minute: int = 0, more: str = "") -> str:
    """A mail as an mbox file holds it."""
    reply = f"In-Reply-To: {answers}\n" if answers else ""
    date = f"Mon, 3 Feb 2025 10:{minute:02}:00 +0000"
    head = f"From: {sender}\nTo: x@x.example\nSubject: {subject}\nDate: {date}\nMessage-ID: {key}\n"
    return f"From {sender} Mon Feb  3 10:{minute:02}:00 2025\n{head}{reply}{more}\n{text}\n\n"


def _slack(folder: Path) -> Made:
    for name, content in slack_export().items():
        (folder / "export" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "export" / name).write_text(json.dumps(content))
    rows = [{"messages": TURNS, "channel": "help", "started_by": "Ann", "replies": 1, "left_out": 0} for _ in range(3)]
    return {"kind": "slack", "path": "export"}, [1, 3, 5], rows


def slack_export() -> dict[str, Any]:
    """The files of an export with three answered threads."""
    messages: list[dict[str, Any]] = []
    for n in range(3):
        messages += [
            {"type": "message", "user": "U1", "text": "It broke.", "ts": f"{n}0.1", "thread_ts": f"{n}0.1"},
            {"type": "message", "user": "U2", "text": "Try again.", "ts": f"{n}0.2", "thread_ts": f"{n}0.1"},
        ]
    users = [
        {"id": "U1", "name": "ann", "profile": {"display_name": "Ann", "email": "ann@x.example"}},
        {"id": "U2", "name": "bob", "profile": {"display_name": "Bob", "email": "bob@shop.example"}},
    ]
    return {"users.json": users, "channels.json": [{"id": "C1", "name": "help"}], "help/2025-02-03.json": messages}


def _zendesk(folder: Path) -> Made:
    (folder / "tickets.json").write_text(json.dumps({"tickets": TICKETS}, indent=0))
    rows = [{"messages": TURNS, "id": n, "subject": "help", "left_out": 0} for n in range(3)]
    return {"kind": "zendesk", "path": "tickets.json"}, [3 + 17 * n for n in range(3)], rows


TICKETS = [
    {
        "id": n,
        "subject": "help",
        "requester_id": 7,
        "comments": [
            {"author_id": 7, "body": "It broke.", "public": True},
            {"author_id": 9, "body": "Try again.", "public": True},
        ],
    }
    for n in range(3)
]


def _datasets(folder: Path) -> Made:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = [{"text": f"question {n}", "label": n % 2} for n in range(6)]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(folder / "saved", num_shards=2)
    named = [{"text": row["text"], "label": ["no", "yes"][n % 2]} for n, row in enumerate(rows)]
    return {"kind": "datasets", "path": "saved"}, [1, 2, 3, 1, 2, 3], named


def _hub(folder: Path) -> Made:
    """A data set in the user's hub cache, as if it had been fetched before."""
    place = folder / "cache" / "hub" / "datasets--acme--rows"
    (place / "snapshots" / COMMIT).mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    (place / "snapshots" / COMMIT / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (place / "snapshots" / COMMIT / "test.jsonl").write_text("{}\n")
    return {"kind": "hub", "name": "acme/rows"}, list(range(1, len(ROWS) + 1)), ROWS


MAKERS: dict[str, Callable[[Path], Made]] = {
    "json": _json,
    "arrow": _arrow,
    "mediafolder": _mediafolder,
    "webdataset": _webdataset,
    "excel": _excel,
    "text": _text,
    "html": _html,
    "pdf": _pdf,
    "docx": _docx,
    "mbox": _mbox,
    "slack": _slack,
    "zendesk": _zendesk,
    "datasets": _datasets,
    "hub": _hub,
}


def write_xlsx(path: Path, rows: list[list[Any]], **more: list[list[Any]]) -> None:
    """A workbook with a first sheet `rows`, and more by name."""
    import openpyxl

    book = openpyxl.Workbook()
    book.active.title = "rows"
    for row in rows:
        book.active.append(row)
    for name, content in more.items():
        sheet = book.create_sheet(name)
        for row in content:
            sheet.append(row)
    book.save(path)


def write_pdf(path: Path, pages: list[str]) -> None:
    """A PDF with one line of text on each page."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode())
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for number, text in enumerate(pages):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>".encode()
        )
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    data, places = bytearray(b"%PDF-1.4\n"), []
    for number, content in enumerate(objects, start=1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    data += b"".join(b"%010d 00000 n \n" % place for place in places)
    data += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    path.write_bytes(data)
