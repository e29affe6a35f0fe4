"""What Flower's own strategies make of given updates; runs in Flower's environment, whose pins exclude ours.

    python flower_strategies.py INPUT.npz OUTPUT.npz

INPUT has `task` (JSON: the strategy, its settings, the rows of each site, rounds), `start/NAME` and
`update/ROUND/SITE/NAME`, which is what a site adds to the weights that it is given. OUTPUT has `ROUND/NAME`.
"""

import json
import sys
from typing import Any

import numpy
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.server.strategy.aggregate import aggregate_bulyan, aggregate_krum
from flwr.serverapp import strategy
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity


class Nodes:
    """As much of a grid as a strategy needs to name its nodes."""

    def __init__(self, number: int) -> None:
        self._number = number

    def get_node_ids(self) -> list[int]:
        """All of them."""
        return list(range(1, self._number + 1))


class IteratedBulyan(FedAvg):
    """Bulyan as its paper has it, by Flower's older function: Krum picks one site after another. Flower's class of that
    name takes the best of one Krum."""

    def __init__(self, num_malicious_nodes: int) -> None:
        super().__init__()
        self._poisoned = num_malicious_nodes

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        """The weights that are combined."""
        contents = [reply.content["arrays"] for reply in replies]
        updates = [(arrays.to_numpy_ndarrays(), 1) for arrays in contents]
        found = aggregate_bulyan(updates, self._poisoned, aggregate_krum, to_keep=0)
        return ArrayRecord({name: Array(value) for name, value in zip(contents[0], found, strict=True)}), None


def main() -> None:
    """Run one strategy over all rounds."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # messages bear them
    given = numpy.load(sys.argv[1])
    task: dict[str, Any] = json.loads(str(given["task"]))
    kinds = {**vars(strategy), "IteratedBulyan": IteratedBulyan}
    chosen = kinds[task["strategy"]](**task["settings"])
    weights = {key.removeprefix("start/"): given[key] for key in given.files if key.startswith("start/")}
    found = {}
    for number in range(1, task["rounds"] + 1):
        # FedAdam corrects its moments by server_round + 1, and Flower counts rounds from 1: one step too many
        counted = number - 1 if task["strategy"] == "FedAdam" else number
        arrays = ArrayRecord({name: Array(value) for name, value in weights.items()})
        questions = list(chosen.configure_train(counted, arrays, ConfigRecord(), Nodes(len(task["rows"]))))
        replies = []
        for at, rows in enumerate(task["rows"]):
            moved = {name: Array(value + given[f"update/{number}/{at}/{name}"]) for name, value in weights.items()}
            content = RecordDict({"arrays": ArrayRecord(moved), "metrics": MetricRecord({"num-examples": rows})})
            replies.append(Message(content, reply_to=questions[at]))
        arrays, _ = chosen.aggregate_train(counted, replies)
        weights = {name: value.numpy() for name, value in arrays.items()}
        found |= {f"{number}/{name}": value for name, value in weights.items()}
    numpy.savez(sys.argv[2], **found)


if __name__ == "__main__":
    main()
