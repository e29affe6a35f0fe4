"""Makes `forms.parquet`: pictures of delivery notes that are filled in by hand, and what stands on each as JSON.

python draw.py
"""

import io
import json
import random
from pathlib import Path

import pyarrow as pa  # noqa: TID253  # a script of its own
import pyarrow.parquet as pq  # noqa: TID253
from PIL import Image, ImageDraw, ImageFont

SIDE = 42
SCALE = 4
"""Forms are drawn so many times larger and then made smaller, as a scanner smooths edges."""
SIZES = ("S", "M", "L")
ROWS = 1300


def draw_form(parcels: int, size: str, *, paid: bool, chance: random.Random) -> Image.Image:
    """A printed frame, filled in: the number of parcels, their size, and whether they are paid for."""
    ground = chance.randrange(225, 256)
    form = Image.new("L", (SCALE * SIDE, SCALE * SIDE), ground)
    pen = ImageDraw.Draw(form)
    for box in ((1, 1, 20, 27), (22, 1, 41, 27), (1, 30, 12, 41)):
        pen.rectangle([SCALE * edge for edge in box], outline=170, width=2)
    ink, font = chance.randrange(0, 90), ImageFont.load_default(size=SCALE * chance.randrange(19, 24))
    for place, text in (((10, 14), str(parcels)), ((31, 14), size)):
        at = [SCALE * (edge + chance.uniform(-1.5, 1.5)) for edge in place]
        pen.text(at, text, fill=ink, font=font, anchor="mm")
    if paid:
        low, high = (SCALE * (edge + chance.uniform(-1, 1)) for edge in (32, 39))
        pen.line([SCALE * 3, low, SCALE * 10, high], fill=ink, width=7)
        pen.line([SCALE * 3, high, SCALE * 10, low], fill=ink, width=7)
    for line in range(2):
        y = SCALE * (34 + 4 * line)
        pen.line([SCALE * 16, y, SCALE * chance.randrange(28, 41), y], fill=150, width=3)
    small = form.rotate(chance.uniform(-4, 4), fillcolor=ground).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return small.quantize(16).convert("L")


def main() -> None:
    """Write the file beside this one."""
    chance = random.Random(11)
    contents, answers = [], []
    for number in range(ROWS):
        parcels, size, paid = number % 9 + 1, chance.choice(SIZES), chance.random() < 0.5
        file = io.BytesIO()
        draw_form(parcels, size, paid=paid, chance=chance).save(file, "PNG", optimize=True)
        contents.append({"bytes": file.getvalue(), "path": None})
        answers.append(json.dumps({"parcels": parcels, "size": size, "paid": paid}))
    order = chance.sample(range(ROWS), ROWS)
    table = pa.table(
        {
            "image": pa.array(
                [contents[at] for at in order], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            ),
            "question": ["Read the form."] * ROWS,
            "answer": [answers[at] for at in order],
        }
    )
    pq.write_table(table, Path(__file__).with_name("forms.parquet"))


if __name__ == "__main__":
    main()
