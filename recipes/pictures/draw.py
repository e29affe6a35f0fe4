"""Makes `pictures.parquet`: digits that are drawn here, and a sample of Fashion-MNIST (MIT licence) when it is given.

python draw.py [FOLDER WITH images-idx3-ubyte.gz AND labels-idx1-ubyte.gz]
"""

import gzip
import io
import random
import sys
from pathlib import Path

import pyarrow as pa  # noqa: TID253  # a script of its own
import pyarrow.parquet as pq  # noqa: TID253
from PIL import Image, ImageDraw, ImageFont

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FASHION = (
    "t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
SIDE = 28


def draw_digit(digit: int, chance: random.Random) -> Image.Image:
    """A digit of its own size, place, slant and brightness on a dark ground with some noise."""
    large = Image.new("L", (4 * SIDE, 4 * SIDE), 0)
    font = ImageFont.load_default(size=chance.randrange(64, 96))
    place = (2 * SIDE + chance.randrange(-12, 13), 2 * SIDE + chance.randrange(-12, 13))
    ImageDraw.Draw(large).text(place, str(digit), fill=chance.randrange(150, 256), font=font, anchor="mm")
    small = large.rotate(chance.uniform(-20, 20)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return small.point([min(255, value + chance.randrange(0, 24)) for value in range(256)])


def read_fashion(folder: Path) -> list[tuple[str, Image.Image]]:
    """The pictures of a folder in MNIST's own format, with their classes."""
    pixels = gzip.decompress((folder / "images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((folder / "labels-idx1-ubyte.gz").read_bytes())[8:]
    size = SIDE * SIDE
    return [
        (FASHION[label], Image.frombytes("L", (SIDE, SIDE), pixels[at * size : (at + 1) * size]))
        for at, label in enumerate(labels)
    ]


def main() -> None:
    """Write the file beside this one."""
    chance = random.Random(7)
    rows = [(DIGITS[number % 10], draw_digit(number % 10, chance)) for number in range(6000)]
    rows += read_fashion(Path(sys.argv[1])) if len(sys.argv) > 1 else []
    chance.shuffle(rows)
    contents = []
    for _, image in rows:
        file = io.BytesIO()
        image.save(file, "PNG", optimize=True)
        contents.append({"bytes": file.getvalue(), "path": None})
    table = pa.table(
        {
            "image": pa.array(contents, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "question": ["What is in the picture?"] * len(rows),
            "class": [name for name, _ in rows],
        }
    )
    pq.write_table(table, Path(__file__).with_name("pictures.parquet"))


if __name__ == "__main__":
    main()
