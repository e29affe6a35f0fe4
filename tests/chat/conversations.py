"""Short conversations that the tests of this room share."""

from __future__ import annotations

from luthier.chat.messages import Message, ToolCall

TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "lookup",
            "description": "Look up a fact.",
            "parameters": {
                "type": "object",
                "properties": {"key": {"type": "string", "description": "what to look up"}},
                "required": ["key"],
            },
        },
    },
)

SYSTEM = Message(role="system", content="You are brief.")
ASK = Message(role="user", content="What is the capital?")
SAY = Message(role="assistant", content="It is Paris.")
THINK = Message(role="assistant", content="It is Paris.", thinking="Think of France.")
CALL = Message(role="assistant", tool_calls=(ToolCall(name="lookup", arguments={"key": "France"}, id="abcdefghi"),))
RESULT = Message(role="tool", content='{"found": "Paris\\n"}', name="lookup", tool_call_id="abcdefghi")

CONVERSATIONS = {
    "question": ((ASK, SAY), ()),
    "system": ((SYSTEM, ASK, SAY), ()),
    "two turns": ((ASK, SAY, ASK, SAY), ()),
    "thinking": ((ASK, THINK), ()),
    "two thoughts": ((ASK, THINK, ASK, THINK), ()),
    "tools on offer": ((SYSTEM, ASK, SAY), TOOLS),
    "call": ((ASK, CALL), TOOLS),
    "call and answer": ((SYSTEM, ASK, CALL, RESULT, SAY), TOOLS),
}
"""What templates are tried on: messages and tools."""
