"""Media outside of data sets, such as those of requests: what operators would take out of rows is taken out of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.chat.media_codec import KeptMedia
from luthier.chat.messages import Media
from luthier.core.component import components_by_kind
from luthier.core.errors import InputError, SourceLocation, did_you_mean
from luthier.data.media.operator import MediaOperator
from luthier.data.operator import Operator


class MediaRedactor:
    """Applies operators such as `image_pii` and `faces` to one medium after the other."""

    def __init__(self, settings: Sequence[Mapping[str, Any]], recipe_dir: Path) -> None:
        """`InputError` for what is no operator on media; `MissingExtra` for one whose libraries are not installed."""
        known = [kind for kind, member in components_by_kind(Operator).items() if issubclass(member, MediaOperator)]
        self._operators: list[MediaOperator] = []
        for entry in settings:
            if entry.get("kind") not in known:
                what = f"no operator {entry.get('kind')!r} looks at pictures or sounds"
                hint = did_you_mean(str(entry.get("kind")), known)
                raise InputError(what, where=SourceLocation(field="media_ops"), hint=hint)
            operator = Operator.parse(dict(entry))
            assert isinstance(operator, MediaOperator)
            operator.check_installed(recipe_dir)
            self._operators.append(operator)

    def __call__(self, media: Media, content: bytes) -> KeptMedia | None:
        """The medium without what was found; None where an operator would drop its row."""
        kept = KeptMedia(media, content)
        for operator in self._operators:
            if operator.medium == media.kind and (findings := operator.find(kept.content)):
                if operator.outcome == "drop":
                    return None
                if operator.outcome == "redact":
                    kept = operator.redact(kept.content, findings)
        return kept
