"""Files of new users: a support lead's export of a spreadsheet; chats, tools and preferences of a user of TRL."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.recipe.test_chat_template import write_chats
from tests.tiny_models import tickets, tiny_model

CLASSES = {
    "Rückerstattung": ["Geld", "Rückzahlung", "Gutschrift", "Erstattung"],
    "Kundenkonto": ["Passwort", "Anmeldung", "Profil", "Benutzername"],
    "Versand": ["Paket", "Lieferung", "Sendung", "Bote"],
    "Rechnung": ["Rechnung", "Betrag", "Mahnung", "Abbuchung"],
}
OTHER_SPELLINGS = {"Rückerstattung": "Rueckerstattung", "Kundenkonto": "Kunden-Konto"}
_SENTENCES = [
    "Wo bleibt {}",
    "Ich habe eine Frage zu {}",
    "Es gibt ein Problem mit {}",
    "Bitte prüfen Sie {}",
    "Seit Montag warte ich auf {}",
    "Mit {} stimmt etwas nicht",
]
PEOPLE = ["Jürgen Müller", "Sabine Schäfer", "Thomas Weiß", "Petra Krause", "Anja Lehmann", "Dieter Hoffmann"]
_TOPICS = ["Frage zu", "Ihre Nachricht zu", "Dringend:"]
_HANDLERS = ["Team A", "Team B", "Team C"]
_HEADER = "Nr;Betreff;Nachricht;Kategorie;Bearbeiter"


def write_spreadsheet(path: Path, count: int = 180, *, titles: bool = True, labels: bool = True, seed: int = 5) -> Path:
    """Tickets as Excel saves them in Germany: cp1252, semicolons, title rows, line breaks in cells, empty labels."""
    chance = random.Random(seed)
    lines = [";;;;", "Auswertung 2025;;;;", _HEADER] if titles else [_HEADER]
    seen: set[str] = set()
    while len(seen) < count:
        label = chance.choice(sorted(CLASSES))
        word = chance.choice(CLASSES[label])
        text = chance.choice(_SENTENCES).format(f"{word} {chance.randrange(1000, 9999)}")
        if text in seen:
            continue
        seen.add(text)
        spelled = OTHER_SPELLINGS.get(label, label) if chance.random() < 0.25 else label
        answer = spelled if labels and len(seen) % 12 else ""
        subject = (
            chance.choice(["AW: ", "WG: ", ""]) + f"{chance.choice(_TOPICS)} {word} vom {chance.randrange(1, 29)}. Mai"
        )
        message = f"Hallo, {text.lower()}?"
        if chance.random() < 0.5:
            greeting = f"Guten Tag Frau {chance.choice(PEOPLE).split()[1]},"
            message = f"{greeting}\r\n{text}.\r\n\r\nMit freundlichen Grüßen\r\n{chance.choice(PEOPLE)}"
        lines.append(f'{len(seen)};{subject};"{message}";{answer};{chance.choice(_HANDLERS)}')
    path.write_bytes(("\r\n".join(lines) + "\r\n").encode("cp1252"))
    return path


def write_pairs(path: Path, count: int = 48) -> Path:
    """Preferences as TRL has them: a prompt of turns, the better answer and the worse one."""
    rows = [
        {
            "prompt": [{"role": "user", "content": ticket["message"]}],
            "chosen": [
                {"role": "assistant", "content": f"Thank you, {ticket['customer']}: {ticket['category']} looks."}
            ],
            "rejected": [
                {"role": "assistant", "content": f"No, {ticket['customer']}, ask somebody else about it now."}
            ],
        }
        for ticket in tickets(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


TRL = """\
model_name_or_path: ./tiny
datasets:
  - path: json
    data_files: chats.jsonl
learning_rate: 2.0e-4
num_train_epochs: 1
per_device_train_batch_size: 4
gradient_accumulation_steps: 2
use_peft: true
lora_r: 8
lora_alpha: 16
output_dir: out
"""


def write_support(folder: Path) -> None:
    """What the support lead has: labelled tickets, new ones, and a base model."""
    write_spreadsheet(folder / "tickets.csv")
    write_spreadsheet(folder / "neu.csv", 12, titles=False, labels=False, seed=9)
    write_spreadsheet(folder / "juni.csv", 20, titles=False, seed=11)
    tiny_model(folder / "tiny")


def write_agent(folder: Path) -> None:
    """What the engineer has: chats with tools, preferences, a file of TRL, and a base model that reads long prompts."""
    write_chats(folder, rows=40)
    write_pairs(folder / "pairs.jsonl")
    (folder / "sft.yaml").write_text(TRL, encoding="utf-8")
    config = tiny_model(folder / "tiny") / "config.json"
    told = json.loads(config.read_text(encoding="utf-8")) | {"max_position_embeddings": 2048}
    config.write_text(json.dumps(told), encoding="utf-8")
