"""Files in the encodings of all the world, short ones too: read right, or said to be a guess."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.core.errors import DataError
from luthier.data.formats import delimited, encodings
from luthier.data.formats.files import SourceFile
from luthier.data.row import SourceRecord

LINES = {
    "cp932": ("配達が遅れています。", "荷物はまだ届いていませんが、いつ届きますか。返金をお願いします。"),
    "euc_jp": ("荷物はまだ届いていませんが、いつ届きますか。返金をお願いします。", "配達が遅れています。"),
    "cp949": ("배송이 늦어요.", "주문한 상품이 아직 도착하지 않았습니다. 언제 도착하나요?"),
    "gb18030": ("我的包裹还没到。", "我上周订购的商品还没有送到,请问什么时候能到?谢谢。"),
    "big5": ("我的包裹還沒到。", "我上週訂購的商品還沒有送到,請問什麼時候能到?謝謝。"),
    "cp1255": ("החבילה לא הגיעה", "החבילה שהזמנתי עדיין לא הגיעה, מתי היא תגיע? אני רוצה החזר כספי."),
    "koi8_r": ("Посылка не пришла", "Посылка, которую я заказал, ещё не пришла. Когда она придёт? Верните деньги."),
    "cp1251": ("Посылка не пришла", "Посылка, которую я заказал, ещё не пришла. Когда она придёт? Верните деньги."),
    "koi8_u": ("Де моя посилка? Поверніть гроші, її ще немає",),
    "cp1253": ("Το δέμα δεν ήρθε", "Το δέμα που παρήγγειλα δεν έχει έρθει ακόμα. Πότε θα έρθει;"),
    "cp1256": ("الطرد لم يصل", "الطرد الذي طلبته لم يصل بعد، متى سيصل؟ أريد استرداد المال."),
    "cp874": ("พัสดุของฉันอยู่ที่ไหน ฉันต้องการเงินคืน",),
    "cp1250": ("Gdzie jest moja paczka? Proszę o zwrot pieniędzy", "Kde je můj balík? Chci vrátit peníze"),
    "cp1254": ("Kargom nerede? Paramı geri istiyorum, teşekkürler",),
    "cp1257": ("Kur ir mana paka? Es vēlos naudu atpakaļ, lūdzu",),
    "cp1252": ("C'est déjà arrivé, merci beaucoup", "Größe falsch", "¿dónde está? El paquete no llegó aún", "café"),
}


@pytest.mark.parametrize("encoding", LINES)
def test_a_file_of_one_line_is_read_in_its_own_letters(tmp_path: Path, encoding: str) -> None:
    for line in LINES[encoding]:
        path = tmp_path / "t.csv"
        path.write_bytes(f"text\tlabel\n{line}\ta\n".encode(encoding))
        said: list[str] = []
        found = list(delimited.read_delimited_rows(SourceFile(path, "t.csv"), say=said.append))
        assert [one.values for one in found if isinstance(one, SourceRecord)] == [{"text": line, "label": "a"}], said
        assert any("not UTF-8" in note for note in said)


def test_languages_of_one_encoding_are_heard_together() -> None:
    lines = (
        "Where is it?",
        "Où est mon colis, s'il vous plaît?",
        "Rückgabe",
        "¿dónde está?",
        "Hvor er min pakke på vej",
    )
    assert encodings.detect_encoding("\n".join(lines).encode("cp1252"), "auto", "t").name == "cp1252"


def test_few_letters_are_said_to_be_a_guess() -> None:
    short = encodings.detect_encoding("Возврат".encode("cp1251"), "auto", "t.txt")
    assert "guessed from 7 bytes" in short.note
    assert "set `encoding`" in short.note
    assert "guessed" not in encodings.detect_encoding((LINES["cp1251"][1]).encode("cp1251"), "auto", "t.txt").note


@pytest.mark.parametrize("encoding", ["shift_jis", "euc_kr", "gb18030", "cp1255", "koi8-r", "windows-1251"])
def test_an_encoding_that_is_set_is_not_guessed(tmp_path: Path, encoding: str) -> None:
    text = {"s": "注文", "e": "환불", "g": "退款", "c": "שאלה", "k": "Да", "w": "Да"}[encoding[0]]
    path = tmp_path / "t.csv"
    path.write_bytes(f"text,label\n{text},a\n".encode(encoding))
    said: list[str] = []
    found = next(iter(delimited.read_delimited_rows(SourceFile(path, "t.csv"), encoding=encoding, say=said.append)))
    assert isinstance(found, SourceRecord)
    assert found.values["text"] == text
    assert not any("read as" in note for note in said)


def test_a_wrong_name_is_told_the_right_ones() -> None:
    with pytest.raises(DataError) as caught:
        encodings.decode_start(b"abc", "hebrew-win", encodings.SourceLocation(file="t.csv"))
    assert "cp1255 (Hebrew)" in (caught.value.hint or "")
    assert caught.value.where.field == "encoding"


ENGLISH = tuple(f"{number},my parcel number {number} has not come and nobody answers,delivery" for number in range(30))


@pytest.mark.parametrize(
    "few",
    [
        ("25 °C outside",), ("a naïve question",), ("Mr. Müller wrote twice",), ("the café is closed",), ("prix,20 €",),
        ("ask in São Paulo", "it’s late", "the résumé attached"), ("La consegna è in ritardo", "costa di più"),
        ("la livraison, où est-elle", "reçu, mais cassé"), ("Straße falsch", "für Köln"), ("100 £ each", "½ price"),
        ("“fine” – thanks…", "don’t know"), ("déjà vu",), ("l'article est un peu abîmé",), ("el niño",),
    ],
)  # fmt: skip
def test_few_letters_in_a_file_are_western(few: tuple[str, ...]) -> None:
    found = encodings.detect_encoding("\n".join((*ENGLISH, *few, "")).encode("cp1252"), "auto", "t.csv")
    assert found.name == "cp1252"
    assert "guessed from" in found.note


def test_a_letter_at_the_end_of_a_line_is_not_cut() -> None:
    found = encodings.detect_encoding(
        "text,city\na,São José\nb,Orléans\nc,Niterói\nd,Macapá\n".encode("cp1252"), "auto", "t.csv"
    )
    assert found.name == "cp1252"


@pytest.mark.parametrize(
    ("encoding", "lines"),
    [
        (
            "cp949",
            ("Apple에서 온 소포가 없어요.", "Galaxy를 주문했는데 iPhone이 왔습니다.", "환불은 PayPal로 해 주세요."),
        ),
        ("cp932", ("Amazonの荷物が届きません。", "iPhoneを注文しましたが、まだです。", "PayPalで返金をお願いします。")),
        ("gb18030", ("我的iPhone还没有送到。", "请用PayPal退款,谢谢。", "Apple手机什么时候能到?")),
        ("cp1256", ("طلبت iPhoneمن المتجر ولم يصل بعد", "أريد استرداد المال عبر PayPalمن فضلكم")),
        ("cp1253", ("Το iPhoneμου δεν έχει έρθει ακόμα", "Θέλω τα χρήματά μου πίσω στο PayPal")),
        ("cp1251", ("Мой iPhone ещё не пришёл", "SIM-карта и USBшнур, верните деньги")),
    ],
)
def test_a_brand_in_its_latin_letters_is_no_sign_of_a_wrong_guess(encoding: str, lines: tuple[str, ...]) -> None:
    data = "\n".join((*lines * 4, "")).encode(encoding)
    assert data.decode(encodings.detect_encoding(data, "auto", "t.csv").name) == data.decode(encoding)


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "Où est mon colis? Il devait être livré à Orléans, « avant Noël », pour 20 €."),
        ("latin-1", "Die Größe ist falsch, ich möchte das Geld zurück. Grüße aus Köln"),
        ("cp1250", "Kde je můj balík? Měl přijít včera, žádám o vrácení peněz."),
        ("cp1250", "Proszę o zwrot pieniędzy, paczka nie doszła, a są już święta."),
        ("cp1251", "Где моя посылка? Я жду её уже две недели, верните деньги."),
        ("utf-16", "Où est mon colis? Größe falsch"),
        ("utf-16-le", "Où est mon colis? Größe falsch"),
        ("utf-16-be", "Où est mon colis? Größe falsch"),
        ("shift_jis", "荷物はまだ届いていません。いつ届きますか。返金をお願いします。"),
        ("gb18030", "我上周订购的商品还没有送到,请问什么时候能到?谢谢。"),
    ],
)
def test_texts_of_some_length_stay_right_among_english_ones(encoding: str, text: str) -> None:
    data = "\n".join((*ENGLISH, *(text.split(". ")) * 5, "")).encode(encoding)
    found = encodings.detect_encoding(data, "auto", "t.csv").name
    assert data.decode(found) == data.decode(encoding)
    assert found != "cp1257"


def test_signs_that_an_encoding_has_not_rule_it_out() -> None:
    line = "Autosummary vyžaduje voľbu, ignorované"
    assert line.encode("cp1250").decode("iso8859_2").isprintable() is False
    assert encodings.detect_encoding(f"{line}\n".encode("cp1250"), "auto", "t.csv").name == "cp1250"
