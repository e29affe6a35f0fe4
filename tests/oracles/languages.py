"""Real sentences in ten languages: the first articles of the Universal Declaration of Human Rights."""

from __future__ import annotations

import random

ARTICLES = {
    "en": (
        "All human beings are born free and equal in dignity and rights.",
        "They are endowed with reason and conscience and should act towards one another in a spirit of brotherhood.",
        "Everyone has the right to life, liberty and the security of person.",
        "No one shall be held in slavery or servitude; slavery and the slave trade shall be prohibited.",
    ),
    "de": (
        "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
        "Sie sind mit Vernunft und Gewissen begabt und sollen einander im Geist der Brüderlichkeit begegnen.",
        "Jeder hat das Recht auf Leben, Freiheit und Sicherheit der Person.",
    ),
    "fr": (
        "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
        "Ils sont doués de raison et de conscience et doivent agir dans un esprit de fraternité.",
        "Tout individu a droit à la vie, à la liberté et à la sûreté de sa personne.",
    ),
    "es": (
        "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
        "Dotados como están de razón y conciencia, deben comportarse fraternalmente los unos con los otros.",
        "Todo individuo tiene derecho a la vida, a la libertad y a la seguridad de su persona.",
    ),
    "ru": (
        "Все люди рождаются свободными и равными в своем достоинстве и правах.",
        "Они наделены разумом и совестью и должны поступать в отношении друг друга в духе братства.",
        "Каждый человек имеет право на жизнь, на свободу и на личную неприкосновенность.",
    ),
    "zh": (
        "人人生而自由,在尊严和权利上一律平等。",
        "他们赋有理性和良心,并应以兄弟关系的精神相对待。",
        "人人有权享有生命、自由和人身安全。",
    ),
    "ja": (
        "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
        "人間は、理性と良心とを授けられており、互いに同胞の精神をもって行動しなければならない。",
        "すべて人は、生命、自由及び身体の安全に対する権利を有する。",
    ),
    "ar": (
        "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
        "وقد وهبوا عقلا وضميرا وعليهم أن يعامل بعضهم بعضا بروح الإخاء.",
        "لكل فرد الحق في الحياة والحرية وسلامة شخصه.",
    ),
    "hi": (
        "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
        "उन्हें बुद्धि और अन्तरात्मा की देन प्राप्त है और परस्पर उन्हें भाईचारे के भाव से बर्ताव करना चाहिए।",
        "प्रत्येक व्यक्ति को जीवन, स्वाधीनता और वैयक्तिक सुरक्षा का अधिकार है।",
    ),
    "th": (
        "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
        "ต่างมีเหตุผลและมโนธรรม และควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ",
        "คนทุกคนมีสิทธิในการดำรงชีวิต เสรีภาพ และความมั่นคงแห่งตัวตน",
    ),
}  # fmt: skip
UNSPACED = ("zh", "ja", "th")
EDGES = (("", "a b"), ("a b", ""), ("", ""), ("a", "a"), ("!", "?"), ("a " * 60, "a"), ("x\ny", "y\nx"), ("A", "a"))
"""Predictions and references on which implementations like to differ."""


def said(language: str, seed: int = 0, rows: int = 40) -> tuple[list[str], list[str]]:
    """Predictions and references: sentences with words (or signs) lost, moved and taken from other sentences."""
    chance = random.Random(f"{language} {seed}")
    gap = "" if language in UNSPACED else " "
    sentences = ARTICLES[language]
    every = [unit for text in sentences for unit in (text.split() if gap else text)]
    predictions, references = [], []
    for _ in range(rows):
        reference = chance.choice(sentences)
        units = list(reference.split() if gap else reference)
        units = [chance.choice(every) if chance.random() < 0.2 else unit for unit in units if chance.random() > 0.1]
        if chance.random() < 0.3:
            units = units[len(units) // 2 :] + units[: len(units) // 2]
        predictions.append(gap.join(units))
        references.append(reference)
    return predictions, references
