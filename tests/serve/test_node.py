"""The official Node client and the Vercel AI SDK, unchanged. `./check` installs them; without them, this is skipped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from serving import Served

SCRIPT = Path(__file__).parent / "clients.mjs"
PLACES = [os.environ.get("LUTHIER_NODE", ""), f"{sys.prefix}/node"]


def test_clients_for_node(served: Served) -> None:
    place = next((one for one in PLACES if one and Path(one, "node_modules", "openai").is_dir()), None)
    node = shutil.which("node")
    if node is None or place is None:
        pytest.skip("needs node, and openai, ai and @ai-sdk/openai-compatible in .venv/node (npm install --prefix)")
    words = [node, SCRIPT, served.listening.url, place]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    with served.client() as client:
        said = client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "Where is the parcel?"}],
            max_tokens=12,
            temperature=1,
            seed=7,
        )
    assert told["models"] == ["tiny", "caller", "chooser", "encoder"]
    wanted = said.choices[0].message.content
    assert [told[name] for name in ("whole", "streamed", "vercel", "vercelStreamed")] == [wanted] * 4
    assert told["usage"]["completion_tokens"] == 12
    assert told["json"]["a"] in ("x", "y")
    assert told["call"] == {"name": "wait", "arguments": "{}"}
    assert told["points"] == 32
    assert told["refused"] == [400, "frequency_penalty", "BadRequestError"]
