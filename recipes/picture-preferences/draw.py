"""Makes `dots.parquet`: pictures of one to four dots in one colour, with a right answer and a wrong one.

python draw.py
"""

import io
import random
from pathlib import Path

import pyarrow as pa  # noqa: TID253  # a script of its own
import pyarrow.parquet as pq  # noqa: TID253
from PIL import Image, ImageDraw

SIDE = 28
NUMBERS = ("one", "two", "three", "four")
COLOURS = {"red": (220, 50, 40), "green": (40, 160, 70), "blue": (50, 80, 210)}
ROWS = 900


def draw_dots(count: int, colour: str, chance: random.Random) -> Image.Image:
    """Dots in quarters of a light ground, no two of them in one."""
    image = Image.new("RGB", (4 * SIDE, 4 * SIDE), tuple(chance.randrange(225, 256) for _ in range(3)))
    pen = ImageDraw.Draw(image)
    for quarter in chance.sample(range(4), count):
        x, y = (4 * (7 + 14 * part + chance.uniform(-1.5, 1.5)) for part in divmod(quarter, 2))
        size = 4 * chance.uniform(3.0, 5.0)
        shade = tuple(min(255, max(0, value + chance.randrange(-20, 21))) for value in COLOURS[colour])
        pen.ellipse([x - size, y - size, x + size, y + size], fill=shade)
    return image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def answer(count: int, colour: str) -> str:
    """What is right to say."""
    return f"{NUMBERS[count - 1]} {colour}"


def main() -> None:
    """Write the file beside this one."""
    chance = random.Random(5)
    rows = []
    for number in range(ROWS):
        count, colour = number % 4 + 1, chance.choice(list(COLOURS))
        others = [(n, c) for n in range(1, 5) for c in COLOURS if (n == count) != (c == colour)]
        file = io.BytesIO()
        draw_dots(count, colour, chance).save(file, "PNG", optimize=True)
        content = {"bytes": file.getvalue(), "path": None}
        rows.append((content, answer(count, colour), answer(*chance.choice(others))))
    chance.shuffle(rows)
    images, right, wrong = zip(*rows, strict=True)
    table = pa.table(
        {
            "image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "prompt": ["How many dots, and which colour?"] * ROWS,
            "chosen": right,
            "rejected": wrong,
        }
    )
    pq.write_table(table, Path(__file__).with_name("dots.parquet"))


if __name__ == "__main__":
    main()
