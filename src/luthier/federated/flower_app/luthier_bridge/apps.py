"""Two Flower apps that relay encrypted messages and cannot read them: Luthier runs next to them, in its own
environment.
"""

import time
from contextlib import suppress
from http.client import HTTPException

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from luthier_bridge.unix_http import request

client = ClientApp()
server = ServerApp()
PAUSE_S = 1.0
"""Between two looks at what waits."""
RETRY_S = 5.0
"""After a message that got no answer."""


def pack(content: bytes) -> RecordDict:
    """Bytes as one array, which Flower sends in chunks."""
    return RecordDict({"sealed": ArrayRecord({"bytes": Array("uint8", (len(content),), "bytes", content)})})


def unpack(content: RecordDict) -> bytes:
    """Return the bytes of a packed message."""
    return content["sealed"]["bytes"].data


@client.query()
def name_site(message: Message, context: Context) -> Message:
    """Return the site of this node."""
    return Message(RecordDict({"node": ConfigRecord({"site": context.node_config["site"]})}), reply_to=message)


@client.train()
def carry_message(message: Message, context: Context) -> Message:
    """Pass a message to the local site and return its answer; none where the site refuses it."""
    end = message.metadata.created_at + message.metadata.ttl
    while time.time() < end:
        try:
            status, answer, _ = request(context.node_config["socket"], "POST", "/messages", unpack(message.content))
        except (OSError, HTTPException):
            status = 503  # the site is not there, or ended while it trained: it knows its answers when it is back
        if status != 503:
            return Message(pack(answer if status == 200 else b""), reply_to=message)
        time.sleep(PAUSE_S)
    raise TimeoutError("the site did not answer in time")


@server.main()
def carry_messages(grid: Grid, context: Context) -> None:
    """Send waiting messages to each site's node and return the answers; ends when the coordinator does not listen."""
    path, ttl = context.run_config["socket"], context.run_config["ttl-s"]
    queries: dict[str, int] = {}  # node, by the question's identifier
    nodes: dict[str, int] = {}  # by site; the node that came last
    sent: dict[str, tuple[str, int, str]] = {}  # site, node and where the answer goes, by the message's identifier
    rests: dict[str, float] = {}
    reached_at = time.monotonic()
    while time.monotonic() - reached_at < context.run_config["patience-s"]:
        time.sleep(PAUSE_S)
        there = set(grid.get_node_ids())
        nodes = {site: node for site, node in nodes.items() if node in there}
        queries = {key: node for key, node in queries.items() if node in there}
        for node in there - set(nodes.values()) - set(queries.values()):
            queries.update(dict.fromkeys(grid.push_messages([Message(RecordDict(), node, "query", ttl=60.0)]), node))
        sent = {key: entry for key, entry in sent.items() if nodes.get(entry[0]) == entry[1]}
        for reply in grid.pull_messages([*queries, *sent]):
            question = reply.metadata.reply_to_message_id
            if (node := queries.pop(question, None)) is not None:
                if reply.has_content():
                    nodes[str(reply.content["node"]["site"])] = node
                continue
            site, _, url = sent.pop(question)
            rests[site] = time.monotonic() + RETRY_S
            if reply.has_content() and (answer := unpack(reply.content)):
                with suppress(OSError, HTTPException):  # a coordinator that is away will ask again
                    rests[site] *= request(path, "PUT", url, answer)[0] != 204
        for site, node in nodes.items():
            if rests.get(site, 0.0) > time.monotonic() or any(entry[0] == site for entry in sent.values()):
                continue
            try:
                status, envelope, url = request(path, "GET", f"/messages/{site}")
            except (OSError, HTTPException):
                continue
            reached_at = time.monotonic()
            if status == 200:
                keys = grid.push_messages([Message(pack(envelope), node, "train", ttl=float(ttl))])
                sent.update(dict.fromkeys(keys, (site, node, url)))
