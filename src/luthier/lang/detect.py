"""Which language texts are written in: py3langid's model, walked for a whole batch of texts at once.

Naive Bayes over byte n-grams (Lui and Baldwin 2012, doi:10.18653/v1/P12-3005). The tables are py3langid's own; the
walk over them is done here for all texts side by side, which gives the same languages several times as quickly. One
answer is mended: what the model takes for Galician is Portuguese when it bears letters or words of Portuguese alone.
"""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from luthier.core.files import cache_folder
from luthier.core.hashing import file_digest

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CODES = """
ace af am an ar ary arz as az ba bcl be bg bn br bs ca crh cs cy da de dz el en eo es et eu ext fa fi fo fr
fuv fy ga gcf gcr gd gl gom grc gu gug guw ha hbo he hi hr ht hu hy id ig is it ja jv ka kab kik kk km kn ko
ku ky la lb lg lij ln lo lt ltg lv mg mk ml mn mr ms mt my ne nl nn no nso oc om or pa pcm pl ps pt qu ro ru
rw sa sdh se si sk sl sn so sq sr st sv sw ta te tg th tk tl tr tt ug uk ur uz uzs vec vi vo wa wuu xh yo yue
zh zu
"""
LANGUAGES = frozenset(_CODES.split())
"""ISO 639 codes that the identifier knows."""
UNKNOWN = "und"
_PORTUGUESE = re.compile(r"[çãõâêôà]|\b(?:em|com|um|uma|num|numa|pelos?|pelas?|isso|seja|quando)\b", re.IGNORECASE)
"""What Galician writes otherwise: *en, con, un, unha, polo, cando, máis*."""
LOOKED_AT_CHARS = 200
"""The beginning of a text tells its language; more would cost time and change nothing."""


class LanguageGuess(NamedTuple):
    """A language as ISO code, or `und` (undetermined), and its probability."""

    code: str
    sure: float


class _Model(NamedTuple):
    next_state: NDArray[np.integer[Any]]
    """What follows a state (by its row in the table) and a byte."""
    row_of: NDArray[np.int64]
    """Where a state's row begins."""
    feature_of: NDArray[np.int32]
    """The n-gram that ends in a state, or -1."""
    weights: NDArray[np.float16]  # (features, columns)
    prior: NDArray[np.float32]  # (columns,)
    classes: tuple[str, ...]
    class_of: NDArray[np.int64]  # (columns,): a language in two scripts has two columns


def identify_languages(
    texts: Sequence[str], *, min_chars: int = 20, confidence: float = 0.4, among: tuple[str, ...] | None = None
) -> list[LanguageGuess]:
    """The language of each text; a guess never depends on the other texts."""
    language_guesses = [LanguageGuess(UNKNOWN, 0.0)] * len(texts)
    heads = [text[:LOOKED_AT_CHARS].strip() for text in texts]
    indices = [at for at, head in enumerate(heads) if len(head) >= min_chars and any(map(str.isalpha, head))]
    if not indices:
        return language_guesses
    model = _model(among)
    shares = _shares([_bytes(heads[at]) for at in indices], model)
    best = shares.argmax(axis=1)
    for at, column, sure in zip(indices, best.tolist(), shares.max(axis=1).tolist(), strict=True):
        code, rounded = model.classes[column], round(float(sure), 3)
        if code == "gl" and "pt" in model.classes and _PORTUGUESE.search(heads[at]):
            code = "pt"
        language_guesses[at] = LanguageGuess(code if rounded >= confidence and code in LANGUAGES else UNKNOWN, rounded)
    return language_guesses


def _bytes(text: str) -> bytes:
    text = text.lower() if text.isupper() else text
    return unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")


def _shares(texts: Sequence[bytes], model: _Model) -> NDArray[np.float32]:
    """(texts, classes): probabilities, by a softmax whose temperature is the root of the length, as py3langid's."""
    lengths = np.array([len(text) for text in texts])
    scores = _scores(texts, lengths, model) / np.sqrt(lengths, dtype=np.float32)[:, None]
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares = np.zeros((len(texts), len(model.classes)), dtype=np.float32)
    for column, language in enumerate(model.class_of.tolist()):
        shares[:, language] += scores[:, column]
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), dtype=np.float32)


def _scores(texts: Sequence[bytes], lengths: NDArray[np.int64], model: _Model) -> NDArray[np.float32]:
    """(texts, classes): log-posteriors; each n-gram counts by log(1 + how often)."""
    from scipy.sparse import csr_matrix

    features = _walk(texts, lengths, model)
    features.sort(axis=1)  # short rows are sorted many times as quickly as all of them in one array
    is_new = np.ones(features.shape, dtype=bool)
    np.not_equal(features[:, 1:], features[:, :-1], out=is_new[:, 1:])
    runs = np.flatnonzero(is_new)
    found = features.ravel()[runs]
    known = found >= 0
    columns = found[known]
    is_used = np.zeros(len(model.weights), dtype=bool)
    is_used[columns] = True
    ranks = np.cumsum(is_used, dtype=np.int32) - 1
    often = np.log1p(np.diff(runs, append=features.size)[known].astype(np.float32))
    starts = np.searchsorted(runs[known], np.arange(len(texts) + 1) * features.shape[1]).astype(np.int32)
    counts = csr_matrix((often, ranks[columns], starts), (len(texts), int(is_used.sum())))
    scores = np.asarray(counts @ model.weights[is_used].astype(np.float32), dtype=np.float32) + model.prior
    scores[np.diff(starts) == 0] = 0  # nothing was recognised: all languages are alike
    return np.asarray(scores, dtype=np.float32)


def _walk(texts: Sequence[bytes], lengths: NDArray[np.int64], model: _Model) -> NDArray[np.int32]:
    """(texts, bytes of the longest): the n-gram that ends in each byte, or -1; one step for all texts that are long
    enough."""
    order = np.argsort(-lengths, kind="stable")
    longest = int(lengths.max())
    grid = np.frombuffer(b"".join([texts[index].ljust(longest, b"\0") for index in order.tolist()]), dtype=np.uint8)
    columns = np.ascontiguousarray(grid.reshape(-1, longest).T)
    alive = np.searchsorted(-lengths[order], -np.arange(longest), side="left").tolist()
    rows = np.full(len(texts), model.row_of[0])
    features = np.full(columns.shape, -1, dtype=np.int32)
    for letters, count, ending in zip(columns, alive, features, strict=True):
        states = model.next_state.take(rows[:count] + letters[:count])
        rows = model.row_of.take(states)
        ending[:count] = model.feature_of.take(states)
    found = np.empty((len(texts), longest), dtype=np.int32)
    found[order] = features.T
    return found


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


class _Tables(NamedTuple):
    """py3langid's tables as they stand on the disk."""

    next_state: NDArray[np.integer[Any]]
    row: NDArray[np.integer[Any]]
    feature: NDArray[np.integer[Any]]
    weights: NDArray[np.float16]
    prior: NDArray[np.float32]
    names: NDArray[np.str_]


def _tables() -> _Tables:
    """The tables, unpacked once and from then on mapped from the user's cache: unpacking takes a third of a second."""
    from py3langid.langid import MODEL_DIR, MODEL_FILE

    path = cache_folder() / "languages" / file_digest(Path(MODEL_DIR) / MODEL_FILE)
    if not path.is_dir():
        whole = _identifier()
        tables = _Tables(
            next_state=np.asarray(whole.tk_nextmove),
            row=np.asarray(whole.tk_row),
            feature=np.asarray(whole.tk_output),
            weights=whole.nb_ptc,
            prior=np.asarray(whole.nb_pc, dtype=np.float32),
            names=np.array(whole.nb_classes),
        )
        if not _keep(tables, path):
            return tables
    return _Tables(*(np.load(path / f"{name}.npy", mmap_mode="r") for name in _Tables._fields))


def _keep(tables: _Tables, folder: Path) -> bool:
    """Write tables for the next time; a cache that cannot be written only costs that time."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        aside.mkdir(parents=True)
        for name, table in tables._asdict().items():
            np.save(aside / f"{name}.npy", table)
        aside.rename(folder)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
    return folder.is_dir()


@cache
def _model(among: tuple[str, ...] | None) -> _Model:
    """The tables, for all languages or only some."""
    whole = _tables()
    names = [str(name) for name in whole.names]
    kept = [at for at, name in enumerate(names) if among is None or name in among]
    classes = tuple(dict.fromkeys(names[at] for at in kept))
    return _Model(
        np.asarray(whole.next_state),  # maps of the disk still, but indexed as quickly as other arrays
        np.asarray(whole.row, dtype=np.int64) << 8,
        np.asarray(whole.feature, dtype=np.int32),
        np.asarray(whole.weights) if among is None else np.ascontiguousarray(whole.weights[:, kept]),
        np.asarray(whole.prior[kept], dtype=np.float32),
        classes,
        np.array([classes.index(names[at]) for at in kept]),
    )
