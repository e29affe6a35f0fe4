"""Films come in as frames and PDFs as pages: the right ones, bounded before they are decoded, faults told by line."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pypdfium2
import pytest
from PIL import Image

from luthier.artifacts.dataset import read_examples
from luthier.artifacts.media import MediaReader
from luthier.chat.messages import MEDIA_MARK, Example
from luthier.core.errors import DataError
from luthier.data.formats import pdf_pages, video
from luthier.data.formats.pdf_pages import PageRendering, render_pdf_pages
from luthier.data.formats.video import FrameSampling, read_film_frames
from media import picture

Make = Callable[..., Any]


def film(seconds: int = 4, *, rate: int = 10, size: tuple[int, int] = (64, 48), container: str = "mp4") -> bytes:
    """A film that becomes lighter by 5 of 255 with each frame."""
    made = io.BytesIO()
    with av.open(made, "w", format=container) as opened:
        stream: Any = opened.add_stream("mpeg4" if container != "webm" else "vp8", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(seconds * rate):
            pixels = np.full((size[1], size[0], 3), 5 * number % 256, np.uint8)
            opened.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        opened.mux(stream.encode())
    return made.getvalue()


def scan(pages: int = 2, size: tuple[int, int] = (100, 140)) -> bytes:
    """A PDF of pictures, the n-th page as light as n times 40."""
    images = [Image.new("RGB", size, (40 * (number + 1),) * 3) for number in range(pages)]
    made = io.BytesIO()
    images[0].save(made, "PDF", save_all=True, append_images=images[1:], resolution=72)
    return made.getvalue()


def _light(content: bytes) -> float:
    return float(np.asarray(Image.open(io.BytesIO(content)).convert("L")).mean())


def _jsonl(folder: Path, rows: list[dict[str, Any]]) -> str:
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return "a.jsonl"


def _every(made: Any) -> list[Example]:
    return [one for split in made.summary.rows for one in read_examples(made.artifact, split)]


@pytest.mark.parametrize("container", ["mp4", "mov", "matroska", "webm", "avi"])
def test_frames_are_evenly_spread_and_those_that_the_film_shows_then(container: str) -> None:
    content = film(container=container)
    for settings, count in (({}, 4), ({"max_frames": 2}, 2), ({"fps": 2.5, "max_frames": 20}, 10)):
        frames = read_film_frames(content, FrameSampling.model_validate(settings))
        assert len(frames) == count
        times = [(at + 0.5) * 4 / count for at in range(count)]
        expected = [5 * np.ceil(time * 10 - 1e-6) for time in times]  # the first frame at that time or after it
        assert [_light(frame) for frame in frames] == pytest.approx(expected, abs=8)


def test_a_long_film_is_sought_and_not_decoded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    content = film(seconds=60, rate=5)
    whole = read_film_frames(content, FrameSampling(max_frames=5))
    monkeypatch.setattr(video, "_MOST_DECODED", 120)  # of 300
    assert read_film_frames(content, FrameSampling(max_frames=5)) == whole
    times = [(at + 0.5) * 12 for at in range(5)]
    assert [_light(frame) for frame in whole] == pytest.approx([5 * round(5 * time) % 256 for time in times], abs=12)
    monkeypatch.setattr(video, "_MOST_DECODED", 3)
    with pytest.raises(DataError, match="more than 3 frames"):
        read_film_frames(content, FrameSampling(max_frames=5))


def test_rows_show_the_frames_and_pages_in_place(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.mp4").write_bytes(film(seconds=2 + number % 2, rate=6 + number))
        (folder / f"{number}.pdf").write_bytes(scan(1 + number % 3, (100, 100 + number)))
        (folder / f"{number}.png").write_bytes(picture(seed=number))
    rows: list[dict[str, Any]] = [
        {
            "messages": [
                {"role": "user", "content": "Before <video> between <image> and <image>?"},
                {"role": "assistant", "content": f"number {number}"},
            ],
            "videos": [f"files/{number}.mp4"],
            "images": [f"files/{number}.pdf", f"files/{number}.png"],
        }
        for number in range(6)
    ]
    made = make(source={"kind": "jsonl", "path": _jsonl(tmp_path, rows), "media_folder": "."}, split={"test": 1})
    with MediaReader(made.artifact) as reader:
        for example in _every(made):
            number = int(example.messages[-1].content.split()[-1])
            frames, pages = 2 + number % 2, 1 + number % 3
            asked = example.messages[0]
            marks = MEDIA_MARK * frames, MEDIA_MARK * pages
            assert asked.content == f"Before {marks[0]} between {marks[1]} and {MEDIA_MARK}?"
            assert [medium.kind for medium in asked.media] == ["image"] * (frames + pages + 1)
            assert [medium.format for medium in asked.media] == ["jpeg"] * frames + ["png"] * (pages + 1)
            contents = [reader.read(medium.digest) for medium in asked.media]
            assert [_light(content) for content in contents[frames:-1]] == pytest.approx(
                [40 * (page + 1) for page in range(pages)], abs=2
            )
            rendered = asked.media[frames]
            assert (rendered.width, rendered.height) == (209, round((100 + number) * 150 / 72 + 0.4999))


def test_one_page_and_other_settings(make: Make, tmp_path: Path) -> None:
    (tmp_path / "scan.pdf").write_bytes(scan(5))
    rows = [{"image": f"scan.pdf#page={page}", "prompt": "?", "answer": f"page {page}"} for page in range(1, 6)]
    source = {"kind": "jsonl", "path": _jsonl(tmp_path, rows), "media_folder": ".", "pdf": {"dpi": 72}}
    made = make(source=source, split={"test": 1})
    with MediaReader(made.artifact) as reader:
        for example in _every(made):
            (medium,) = example.messages[0].media
            assert (medium.width, medium.height) == (100, 140)
            page = int(example.messages[-1].content.split()[-1])
            assert _light(reader.read(medium.digest)) == pytest.approx(40 * page, abs=2)


def test_pages_are_those_that_pdfium_itself_renders() -> None:
    content = scan(2)
    for at, rendered in enumerate(render_pdf_pages(content, PageRendering(dpi=100))):
        own = pypdfium2.PdfDocument(content)[at].render(scale=100 / 72).to_numpy()[..., ::-1]
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(rendered))), own)


@pytest.mark.parametrize(
    ("column", "name", "content", "problem"),
    [
        ("video", "a.mp4", b"", "not a film"),
        ("video", "a.mp4", b"\0\0\0\x20ftypisom" + b"\0" * 200, "film cannot be read"),
        ("video", "a.avi", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "not a film"),
        ("video", "a.mp4", picture(seed=1), "not a film"),
        ("image", "a.png", film(1), "is a film, and a picture is wanted"),
        ("image", "a.pdf", b"%PDF-1.7\n" + b"x" * 100, "the PDF cannot be read"),
        ("image", "a.pdf", scan(9), "has 9 pages; at most 8"),
        ("image", "a.pdf#page=3", scan(2), "has 2 pages, and page 3 is named"),
        ("image", "a.txt#page=3", scan(2), "not named as a picture"),
        ("video", "../a.mp4", film(1), "leads out"),
    ],
)
def test_what_cannot_be_read_is_told_by_its_line(
    column: str, name: str, content: bytes, problem: str, make: Make, tmp_path: Path
) -> None:
    (tmp_path / "good.mp4").write_bytes(film(1))
    (tmp_path / "good.png").write_bytes(picture(seed=2))
    (tmp_path / name.partition("#")[0].removeprefix("../")).write_bytes(content)
    good = {"video": "good.mp4", "image": "good.png"}[column]
    rows = [{column: entry, "prompt": "?", "answer": f"number {at}"} for at, entry in enumerate([good, name, good])]
    source = {"kind": "jsonl", "path": _jsonl(tmp_path, rows), "media_folder": "."}
    with pytest.raises(DataError, match=problem) as caught:
        make(source=source)
    assert (caught.value.where.file, caught.value.where.line) == ("a.jsonl", 2)
    assert caught.value.hint
    made = make(source={**source, "on_error": "drop"}, split={"test": 1})
    assert len(_every(made)) == 2


def test_sizes_are_bounded_by_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    content = film(1)
    monkeypatch.setattr(video, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(DataError, match="64 x 48 pixels"):
        read_film_frames(content, FrameSampling())
    monkeypatch.undo()
    monkeypatch.setattr(video, "MAX_FILM_SECONDS", 0.5)
    with pytest.raises(DataError, match="lasts 1 seconds"):
        read_film_frames(content, FrameSampling())
    monkeypatch.setattr(pdf_pages, "MAX_PAGE_PIXELS", 1000)
    with pytest.raises(DataError, match="page 1 would have 208 x 292 pixels at 150 dpi"):
        render_pdf_pages(scan(1), PageRendering())


def test_a_film_whose_header_lies_about_its_length_is_bounded() -> None:
    content = bytearray(film(2))
    at = content.index(b"mdhd") + 4
    struct.pack_into(">I", content, at + 16, 0x7FFFFFFF)  # the duration of the track
    assert 1 <= len(read_film_frames(bytes(content), FrameSampling())) <= 8


def test_a_locked_pdf_is_told(tmp_path: Path) -> None:
    pypdf = pytest.importorskip("pypdf")
    writer = pypdf.PdfWriter(io.BytesIO(scan(1)))
    writer.encrypt("secret", algorithm="RC4-128")
    locked = io.BytesIO()
    writer.write(locked)
    with pytest.raises(DataError, match="locked with a password"):
        render_pdf_pages(locked.getvalue(), PageRendering())


def test_the_same_film_is_decoded_once(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.data.engine import media as intake

    (tmp_path / "good.mp4").write_bytes(film(1))
    read = list[int]()
    plain = intake.read_film_frames

    def counted(content: bytes, sampling: FrameSampling) -> list[bytes]:
        read.append(len(content))
        return plain(content, sampling)

    monkeypatch.setattr(intake, "read_film_frames", counted)
    rows = [{"video": "good.mp4", "prompt": f"Question {at}?", "answer": f"number {at}"} for at in range(20)]
    make(source={"kind": "jsonl", "path": _jsonl(tmp_path, rows), "media_folder": "."}, split={"test": 2})
    assert len(read) == 1
