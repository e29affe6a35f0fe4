"""A model written by vLLM, on a machine with a GPU."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Literal

from pydantic import Field

from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError
from luthier.serve.engine import ModelRunner, ServingEngine


class VllmEngine(ServingEngine):
    """Export the model as a Hugging Face folder and write with vLLM's own server, started beside this server.

    Its program must be installed (`pip install vllm`), and the machine must have a GPU. vLLM renders the chat template
    itself, from the same folder; a prompt that was chosen for the model stands in front of each conversation.
    """

    kind: Literal["vllm"] = "vllm"

    program: str = "vllm"
    """The program: a name on the path, or a file."""
    memory: float = Field(default=0.9, gt=0, le=1)
    """The share of the GPU's memory that it may take."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Requests that are under way at the same time, at most; others wait."""
    max_queue_size: int = Field(default=256, ge=1)
    """Requests that wait, at most; whoever comes then is told to come back (429)."""
    timeout_s: float = Field(default=600.0, gt=0)
    """How long it may take to start."""

    def open(self, model: Artifact) -> ModelRunner:
        """Export the model, and start the program."""
        import torch

        from luthier.chat.prompt import PromptPrefix
        from luthier.models.export.checkpoint import export_model_folder
        from luthier.models.sources.endpoint import EndpointModelSource
        from luthier.serve.subprocess_server import SubprocessServer, find_program
        from luthier.serve.upstream import UpstreamModel

        found = find_program(
            self.program, "`pip install vllm` on a machine with a GPU, or serve with the engine `torch`"
        )
        if not torch.cuda.is_available():
            raise ModelError("vLLM wants a GPU, and torch sees none here", hint="serve with the engine `torch`")
        server = SubprocessServer()
        with ExitStack() as undo:
            undo.callback(server.close)
            folder = export_model_folder(model, server.folder / "model", "hf")
            words = ["--host", "127.0.0.1", "--port", str(server.port), "--served-model-name", "model"]
            words += ["--gpu-memory-utilization", str(self.memory), "--generation-config", "vllm"]
            server.start([found, "serve", str(folder), *words], self.timeout_s)
            undo.pop_all()
        settings = EndpointModelSource(url=f"{server.root}/v1", model="model", timeout_s=self.timeout_s)
        return UpstreamModel(
            settings, PromptPrefix.of(model), self.max_num_seqs, self.max_queue_size, model.digest, server
        )
