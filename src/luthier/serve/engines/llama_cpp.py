"""A model as a GGUF file, written by llama.cpp's own server."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Literal

from pydantic import Field

from luthier.core.artifact import Artifact
from luthier.serve.engine import ModelRunner, ServingEngine


class LlamaCppEngine(ServingEngine):
    """Export the model as a GGUF file and write with llama.cpp's `llama-server`, started beside this server.

    Prompts are made here, by the same id-maker as in training and evaluation, and go over as token ids; what comes back
    are token ids, too. Weights in 16 bits or fewer round otherwise than the model that was evaluated, and llama.cpp
    rounds otherwise when others are answered at the same time: a seed draws the same again while nobody else asks.
    """

    kind: Literal["llama_cpp"] = "llama_cpp"

    program: str = "llama-server"
    """The server program: a name on the path, or a file."""
    url: str | None = None
    """Where such a server runs already with this very model; then nothing is exported or started."""
    quant: Literal["f16", "q8_0", "q4_0"] = "f16"
    """Precision of the weights."""
    context: int = Field(default=2048, ge=64)
    """Tokens of one prompt and its answer together, at most."""
    max_num_seqs: int = Field(default=16, ge=1)
    """Answers that are written at the same time; each has its own share of the cache."""
    max_queue_size: int = Field(default=64, ge=1)
    """Answers that wait for their turn, at most; whoever comes then is told to come back (429)."""
    max_new_tokens: int = Field(default=1024, ge=1)
    """Longest answer where a request names none."""
    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    """Where a request names none; 0 always takes the likeliest token."""
    threads: int | None = Field(default=None, ge=1)
    """Threads that compute; llama.cpp's own choice when not given."""
    timeout_s: float = Field(default=120.0, gt=0)
    """How long the program may take to start, and to say the next token."""

    def open(self, model: Artifact) -> ModelRunner:
        """Export the model, and start the program."""
        from luthier.chat.prompt import PromptPrefix
        from luthier.chat.tokenizer import ChatTokenizer
        from luthier.models.export.checkpoint import export_model_folder
        from luthier.models.load import find_base_folder
        from luthier.serve.subprocess_server import LlamaServer, SubprocessServer, find_program

        text = ChatTokenizer.load(find_base_folder(model), before=PromptPrefix.of(model))
        if self.url is not None:
            return LlamaServer(self, text, self.url.rstrip("/"), None, model.digest)
        hint = "install llama.cpp (https://github.com/ggml-org/llama.cpp), or name the file in `find_program`"
        found = find_program(self.program, hint)
        server = SubprocessServer()
        with ExitStack() as undo:
            undo.callback(server.close)
            folder = export_model_folder(model, server.folder / "model", "gguf", quant=self.quant)
            (file,) = folder.glob("*.gguf")
            server.start([found, "-m", str(file), *self._words(server.port)], self.timeout_s)
            undo.pop_all()
        return LlamaServer(self, text, server.root, server, model.digest)

    def _words(self, port: int) -> list[str]:
        words = ["--host", "127.0.0.1", "--port", str(port), "-np", str(self.max_num_seqs)]
        words += ["-c", str(self.context * self.max_num_seqs), "--no-webui"]
        return words if self.threads is None else [*words, "-t", str(self.threads)]
