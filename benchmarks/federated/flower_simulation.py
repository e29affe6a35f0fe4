"""Simulated sites by Flower's own simulation: LoRA by PEFT over transformers, as its users write it.

Runs in an environment with `flwr[simulation]`, which borrows torch, transformers and PEFT from ours. The task names the
packages to borrow, the base model, the tokenized rows of each site, and whether a process keeps its base between sites;
`benchmarks/federated` writes it (part `flower`), and names its file in FLOWER_TASK. Prints CPU-seconds of all
processes and their memory at the end.
"""

# ruff: noqa: E402  # packages are borrowed before they are imported
import json
import os
import sys
import time
from pathlib import Path

TASK = json.loads(Path(os.environ["FLOWER_TASK"]).read_text())
sys.path.append(TASK["packages"])

import psutil
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import AutoModelForCausalLM

client = ClientApp()
server = ServerApp()
kept: list[torch.nn.Module] = []


def open_model() -> torch.nn.Module:
    """The base under LoRA, opened anew for each site as Flower's examples do, or once in a process."""
    if kept:
        return kept[0]
    base = AutoModelForCausalLM.from_pretrained(TASK["model"], dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    if TASK["keep"]:
        kept.append(model)
    return model


@client.train()
def train(message: Message, context: Context) -> Message:
    """One step over a site's rows."""
    torch.set_num_threads(1)
    model = open_model()
    set_peft_model_state_dict(model, message.content["arrays"].to_torch_state_dict())
    rows = TASK["rows"][int(context.node_config["partition-id"])]
    longest = max(len(row["ids"]) for row in rows)
    ids = torch.tensor([row["ids"] + [0] * (longest - len(row["ids"])) for row in rows])
    labels = torch.tensor([row["labels"] + [-100] * (longest - len(row["ids"])) for row in rows])
    seen = torch.tensor([[1] * len(row["ids"]) + [0] * (longest - len(row["ids"])) for row in rows])
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-3)
    model.train()
    loss = model(input_ids=ids, attention_mask=seen, labels=labels).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    content = {
        "arrays": ArrayRecord(get_peft_model_state_dict(model)),
        "metrics": MetricRecord({"num-examples": len(rows), "loss": float(loss.detach())}),
    }
    return Message(RecordDict(content), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """One round over all sites."""
    start = ArrayRecord(get_peft_model_state_dict(open_model()))
    FedAvg(fraction_evaluate=0.0).start(grid=grid, initial_arrays=start, num_rounds=1)
    print(json.dumps(sum_usage()), flush=True)


def sum_usage() -> dict[str, float]:
    """CPU-seconds and unshared memory of this process and of all that it started."""
    own = psutil.Process()
    cpu, memory = 0.0, 0
    for process in [own, *own.children(recursive=True)]:
        try:
            spent = process.cpu_times()
            memory += process.memory_full_info().uss
        except psutil.Error:
            continue
        cpu += spent.user + spent.system + spent.children_user + spent.children_system
    return {"cpu_s": cpu, "bytes": memory, "seconds": time.monotonic() - BEGUN}


BEGUN = time.monotonic()


def start() -> None:
    """Run the simulation; the two apps belong to a module, so that Ray's processes find them."""
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server, client, num_supernodes=len(TASK["rows"]), backend_config=resources)
