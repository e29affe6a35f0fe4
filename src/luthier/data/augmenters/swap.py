"""Counterfactual swaps: the same row about somebody of another group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Literal

from pydantic import Field

from luthier.core.param_space import ParamDistribution
from luthier.data.augment.words import are_english
from luthier.data.augmenter import AugmentContext, AugmentedDraft, Augmenter, AugmentRequest, TextChange, change_texts
from luthier.lang.demographics.groups import Group
from luthier.lang.demographics.swap import DemographicSwapper


class DemographicSwap(Augmenter):
    """Exchange words that name a group of people for those of another: counterfactual data augmentation.

    All gendered words and first names of a row change together, so that it stays of one piece, and pronouns keep their
    grammar (`him` and `his` both come from `her`, by what follows). A nationality, religion or name becomes the same
    other one wherever it stands in the row. What a row is about does not change with the group, so a model that learns
    both forms learns to look past it (Lu et al. 2018; Zhao et al. 2018). Only English rows are touched.
    """

    kind: Literal["swap"] = "swap"

    groups: tuple[Group, ...] = Field(default=("gender",), min_length=1)
    """What is exchanged: `gender`, `names` (for those of another origin), `nationality`, `religion`, `age`."""

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """Nothing: a row has one counterfactual, however often it is tried."""
        return {}

    def write(self, requests: Sequence[AugmentRequest], around: AugmentContext) -> list[AugmentedDraft | None]:
        """Each row with its words of these groups exchanged; a label is none of them."""
        spoken = are_english([request.row for request in requests])
        return [self._swapped(request) if able else None for request, able in zip(requests, spoken, strict=True)]

    def _swapped(self, request: AugmentRequest) -> AugmentedDraft | None:
        roles = ("user",) if request.row.kind == "label" else ("user", "assistant")
        return change_texts(request.row, partial(self._other, mapping=self._swapper.mapping(request.chance)), roles)

    def _other(self, text: str, mapping: dict[str, str]) -> TextChange | None:
        swap_result = self._swapper.other(text, mapping)
        return None if swap_result is None else TextChange(*swap_result)

    @cached_property
    def _swapper(self) -> DemographicSwapper:
        return DemographicSwapper(self.groups)
