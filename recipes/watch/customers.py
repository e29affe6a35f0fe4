"""Plays the customers of a bank, and the people at its desk: real questions out of banking77, in an order of our own.

    python customers.py prepare                    old.csv: questions of the past, about cards, with the queue of each
    python customers.py ask old 60                 asks the served model, and says which queue was right
    python customers.py ask new 240                the same after transfers were opened: six topics that nobody knew
    python customers.py ask later 100              other questions of the same kind

`BANKING` names the folder with banking77's train.csv and test.csv (CC-BY-4.0), `SERVED` the model's address.
"""

from __future__ import annotations

import csv
import os
import random
import sys
from pathlib import Path

OLD = (
    "activate_my_card", "card_about_to_expire", "card_arrival", "card_linking",
    "card_not_working", "change_pin", "getting_spare_card", "lost_or_stolen_card",
)  # fmt: skip
NEW = (
    "beneficiary_not_allowed", "cancel_transfer", "failed_transfer",
    "receiving_money", "transfer_fee_charged", "transfer_timing",
)  # fmt: skip
SHARE = 0.6
"""How many of the customers ask about transfers, once there are any."""
EACH = 48
"""Questions of each topic that the desk had sorted by hand before there was a model."""


def rows(name: str) -> list[dict[str, str]]:
    """Questions of banking77, in an order that is always the same."""
    path = Path(os.environ.get("BANKING", "../../../shared/data/banking77")) / f"{name}.csv"
    with path.open(encoding="utf-8", newline="") as file:
        found = [row for row in csv.DictReader(file) if row["category"] in OLD + NEW]
    random.Random(0).shuffle(found)
    return found


def prepare() -> None:
    """Write what the desk sorted by hand."""
    every = rows("train")
    chosen = [row for topic in OLD for row in [one for one in every if one["category"] == topic][:EACH]]
    with Path("old.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("text", "category"))
        writer.writeheader()
        writer.writerows(chosen)
    print(f"old.csv: {len(chosen)} questions about {len(OLD)} topics")


def questions(when: str, count: int) -> list[dict[str, str]]:
    """So many questions that were in no file before: of old topics alone, or most of them of new ones."""
    every = [*rows("test"), *rows("train")]
    with Path("old.csv").open(encoding="utf-8", newline="") as file:
        known = {row["text"] for row in csv.DictReader(file)}
    old = [row for row in every if row["category"] in OLD and row["text"] not in known]
    new = [row for row in every if row["category"] in NEW]
    if when == "new":
        old.reverse()  # other questions than those that were asked before
    if when == "later":
        new.reverse()
    share = 0.0 if when == "old" else SHARE
    chance = random.Random(when)
    return [(new if chance.random() < share else old).pop(0) for _ in range(count)]


def ask(when: str, count: int) -> None:
    """Ask the model that is released, and let the desk say where each question belonged."""
    import httpx
    from openai import OpenAI

    url = os.environ.get("SERVED", "http://127.0.0.1:8000/v1")
    client, right = OpenAI(base_url=url, api_key="none"), 0
    for number, row in enumerate(questions(when, count)):
        messages = [{"role": "user", "content": row["text"]}]
        said = client.chat.completions.create(model="desk@prod", messages=messages, user=f"{when}-{number}")
        httpx.post(f"{url}/feedback", json={"id": said.id, "label": row["category"]}).raise_for_status()
        right += said.choices[0].message.content == row["category"]
    print(f"{when}: {right} of {count} questions went to the right queue ({right / count:.0%})")


if __name__ == "__main__":
    if sys.argv[1:] == ["prepare"]:
        prepare()
    elif len(sys.argv) == 4 and sys.argv[1] == "ask" and sys.argv[2] in ("old", "new", "later"):
        ask(sys.argv[2], int(sys.argv[3]))
    else:
        sys.exit(__doc__)
