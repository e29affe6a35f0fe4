"""A model written by vLLM, on a machine with a GPU."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Literal

from pydantic import Field

from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError
from luthier.serve.engine import Answering, Engine


class Vllm(Engine):
    """Export the model as a Hugging Face folder and write with vLLM's own server, started beside this server.

    Its program must be installed (`pip install vllm`), and the machine must have a GPU. vLLM renders the chat template
    itself, from the same folder; a prompt that was chosen for the model stands in front of each conversation.
    """

    kind: Literal["vllm"] = "vllm"

    program: str = "vllm"
    """The program: a name on the path, or a file."""
    memory: float = Field(default=0.9, gt=0, le=1)
    """The share of the GPU's memory that it may take."""
    at_once: int = Field(default=256, ge=1)
    """Requests that are under way at the same time, at most; others wait."""
    waiting: int = Field(default=256, ge=1)
    """Requests that wait, at most; whoever comes then is told to come back (429)."""
    timeout_s: float = Field(default=600.0, gt=0)
    """How long it may take to start."""

    def open(self, model: Artifact) -> Answering:
        """Export the model, and start the program."""
        import torch

        from luthier.models.export import export
        from luthier.models.sources.endpoint import Endpoint
        from luthier.serve.elsewhere import Elsewhere
        from luthier.serve.neighbour import Neighbour, program
        from luthier.text.prompt import Prompt

        found = program(self.program, "`pip install vllm` on a machine with a GPU, or serve with the engine `torch`")
        if not torch.cuda.is_available():
            raise ModelError("vLLM wants a GPU, and torch sees none here", remedy="serve with the engine `torch`")
        beside = Neighbour()
        with ExitStack() as undo:
            undo.callback(beside.close)
            folder = export(model, beside.folder / "model", "hf")
            words = ["--host", "127.0.0.1", "--port", str(beside.port), "--served-model-name", "model"]
            words += ["--gpu-memory-utilization", str(self.memory), "--generation-config", "vllm"]
            beside.start([found, "serve", str(folder), *words], self.timeout_s)
            undo.pop_all()
        settings = Endpoint(url=f"{beside.root}/v1", model="model", timeout_s=self.timeout_s)
        return Elsewhere(settings, Prompt.of(model), self.at_once, self.waiting, model.digest, beside)
