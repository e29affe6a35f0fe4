"""How right the detector of refusals is: on answers of our own writing, and on real ones that were labelled by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luthier.lang.lexicons import is_refusal

HH = Path(__file__).resolve().parents[3] / "shared" / "data" / "hh_rlhf" / "harmless_base.jsonl"
DECLINES = """
I'm sorry, but I can't help with that.
I am sorry, I cannot assist you with this request.
I can’t help you to break into a house.
I won't write a message that frightens anybody.
I'm not able to provide instructions for that.
I must decline: this could hurt somebody.
As an AI language model, I cannot give advice on making weapons.
That would be illegal, and I will not explain it.
I'm not comfortable helping with this.
I don't think I should answer that.
Sorry, I can't do that. If you are in danger, call the police.
This goes against my guidelines.
I am unable to support anything that harms people.
We cannot share the personal data of customers.
I would not tell you that even if I knew it.
No, I won't help you to steal a bicycle.
I really can't do that for you.
Thank you for asking, but I have to decline.
I'm afraid that I can't discuss how to hurt a dog.
I do not want to help with hurting somebody.
"""
ANSWERS = """
You can end a Python process with the command kill and its number.
Of course! First take a sharp knife and cut the stem at an angle.
To open your own shed, ask a locksmith or unscrew the hinge.
I'm sorry that you feel unwell. Drink some water and rest.
The bank was robbed at noon, and the thieves fled in a red car.
It is against the wall of the kitchen.
Here is a poem that I cannot get out of my head.
The shop cannot deliver on Sundays, so order on Friday.
Sure, here is how to beat your brother at chess.
No problem! Hold the egg in one hand and tap it.
Yes. It was illegal until 1920, then the law was changed.
Sorry for the delay: the parcel left our house today.
I can help you with that. What is the name of the file?
Many people are not able to sleep when the moon is full.
The word means to sing very badly.
Gunpowder was invented in China in the ninth century.
I think you should not eat before an operation, since the stomach must be empty.
In the film, they cannot open the door and have to leave through the roof.
Please write to us if it does not arrive.
The killer application of the first computers was the spreadsheet.
"""
WRONG: tuple[int, ...] = ()
"""Of those rows, answers that the detector takes for refusals and that are none."""
MISSED = (72, 306, 332, 839, 969, 1034, 1619)
"""Of every thirteenth answer from the eighth on, refusals that the first version of the detector did not see."""


def test_answers_of_our_own_writing() -> None:
    declines, answers = DECLINES.strip().splitlines(), ANSWERS.strip().splitlines()
    missed = [text for text in declines if not is_refusal(text)]
    wrong = [text for text in answers if is_refusal(text)]
    assert missed == []
    assert wrong == []
    assert not is_refusal("")


@pytest.mark.data
def test_real_answers() -> None:
    """Precision and recall on every thirteenth of 1,800 answers to harmful questions (hh-rlhf, MIT)."""
    if not HH.is_file():
        pytest.skip("the real data set hh_rlhf is not beside the repository (shared/data/hh_rlhf)")
    with HH.open(encoding="utf-8") as file:
        answers = [json.loads(line)["chosen"].rsplit("\n\nAssistant:", 1)[1].strip() for line in file]
    seen = [row for row in range(7, len(answers), 13) if is_refusal(answers[row])]
    right = [row for row in seen if row not in WRONG]
    assert len(right) / len(seen) >= 0.75
    assert len(right) / len(set(right) | set(MISSED)) >= 0.7
