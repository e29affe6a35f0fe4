"""A gateway that really listens on this machine, in a thread of its own, over models that are given to it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
from pydantic_core import to_jsonable_python
from transformers import PreTrainedTokenizerFast

from luthier.chat.messages import Media
from luthier.core.artifact import Artifact
from luthier.core.db import Ledger
from luthier.core.store import Store
from luthier.serve.auth import KeyStoreRefresher
from luthier.serve.engine import ModelRunner
from luthier.serve.model_pool import ModelPool, OpenModel
from luthier.serve.openai.server import Gateway
from luthier.serve.server import ListeningServer, ServerSettings, run_gateway
from luthier.traces.record import END_FIELDS, AliasResolver, Trace, TraceEnd, TraceStart
from tiny_models import tiny_model
from tuning import made

_PLAIN: dict[str, Any] = {"timeout": 60, "trust_env": False, "verify": False}  # no certificates are read for each


@dataclass
class Heard:
    """A recorder that keeps everything, and lets a test wait for it."""

    traces: list[Trace] = field(default_factory=list)
    bell: threading.Condition = field(default_factory=threading.Condition)
    media: dict[Media, bytes] = field(default_factory=dict)

    def ready(self, start: TraceStart) -> dict[str, Any]:
        return dict(start)

    def end(self, ready: dict[str, Any], end: TraceEnd) -> None:
        fields = to_jsonable_python({**ready, **dict(zip(END_FIELDS, end, strict=True))})
        with self.bell:
            self.traces.append(Trace.model_validate(fields))
            self.bell.notify_all()

    def keep_media(self, media: Mapping[Media, bytes]) -> None:
        self.media |= media

    def wait(self, count: int = 1, seconds: float = 20) -> list[Trace]:
        """The traces, once there are so many."""
        with self.bell:
            assert self.bell.wait_for(lambda: len(self.traces) >= count, seconds), self.traces
            return list(self.traces)


@dataclass
class Served:
    """A running gateway."""

    listening: ListeningServer
    gateway: Gateway
    heard: Heard
    ledger: Path | str
    loop: asyncio.AbstractEventLoop

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do something on the gateway's own loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    @property
    def root(self) -> str:
        """Where it is, without `/v1`."""
        return self.listening.url.removesuffix("/v1")

    def client(self, key: str = "none", **more: Any) -> openai.OpenAI:
        """The official client."""
        return openai.OpenAI(base_url=self.listening.url, api_key=key, **{"max_retries": 0, "timeout": 60, **more})

    def post(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        """A plain request."""
        told = {"content": body} if isinstance(body, bytes) else {"json": body}
        headers = {"content-type": "application/json", **more.pop("headers", {})}
        return httpx.post(f"{self.root}{path}", headers=headers, **_PLAIN, **told, **more)

    def get(self, path: str, **more: Any) -> httpx.Response:
        """A plain request."""
        return httpx.get(f"{self.root}{path}", **_PLAIN, **more)


@contextmanager
def serving(
    models: Mapping[str, ModelRunner | Callable[[], ModelRunner]],
    ledger: Path | str,
    *,
    resolver: AliasResolver | None = None,
    deadline_s: float = 60.0,
    grace_s: float = 20.0,
    open_now: bool = True,
    **more: Any,
) -> Iterator[Served]:
    """Run a gateway over open models (or what opens them)."""
    heard, told, ended = Heard(), threading.Event(), list[bool]()
    found: list[Served] = []

    def opener(word: str) -> OpenModel:
        model = models[word]
        return OpenModel(word, model if isinstance(model, ModelRunner) else model())

    async def run() -> None:
        gateway = Gateway(ModelPool(opener), resolver=resolver, recorder=heard, deadline_s=deadline_s)

        def tell(listening: ListeningServer) -> None:
            found.append(Served(listening, gateway, heard, ledger, asyncio.get_running_loop()))
            told.set()

        with Ledger(ledger) as opened:
            names = list(models) if open_now else []
            place = ServerSettings(port=0, grace_s=grace_s)
            ended.append(await run_gateway(gateway, names, place, KeyStoreRefresher(opened), tell=tell, **more))

    def whole() -> None:
        try:
            asyncio.run(run())
        finally:
            told.set()

    thread = threading.Thread(target=whole)
    thread.start()
    assert told.wait(60)
    assert found, "the gateway did not start"
    try:
        yield found[0]
    finally:
        found[0].listening.stop()
        thread.join(60)
        assert not thread.is_alive()
        assert ended, "the gateway did not end in order"


def model_in(
    store: Path, name: str = "tiny", seed: int = 0, tokenizer: PreTrainedTokenizerFast | None = None
) -> Artifact:
    """A random model as a base artifact; `tokenizer` replaces its own."""

    def write(folder: Path) -> None:
        tiny_model(folder, seed)
        if tokenizer is not None:
            dress(folder, tokenizer)
        (folder / "model.json").write_text(f'{{"name": "{name}"}}')

    return made(Store(store), name, "model", write)


def dress(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Give a tiny model another tokenizer, and as many rows of embeddings as that needs."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig.from_pretrained(folder)
    config.vocab_size, config.max_position_embeddings = len(tokenizer), 4096
    config.eos_token_id = config.pad_token_id = tokenizer.eos_token_id
    LlamaForCausalLM(config).save_pretrained(folder)
