"""What a model is asked about an answer, and the two verdicts that it may give."""

from __future__ import annotations

from luthier.chat.judge_prompt import YesNoJudgePrompt
from luthier.chat.messages import Message

TALK = (
    Message(role="system", content="Be short."),
    Message(role="user", content="What is 2 + 2?"),
    Message(role="assistant", content="It is 4."),
)


def test_the_judge_sees_the_whole_conversation_the_answer_apart_and_the_rubric() -> None:
    (asked,) = YesNoJudgePrompt(rubric="Is it right?", yes="Good", no="Bad").build_prompt(TALK)
    assert asked.role == "user"
    assert "<<conversation>>\nsystem: Be short.\n\nuser: What is 2 + 2?\n<<end of conversation>>" in asked.content
    assert "<<answer>>\nIt is 4.\n<<end of answer>>" in asked.content
    assert asked.content.endswith("Is it right? Say Good or Bad.")


def test_both_verdicts_follow_the_same_question_that_of_a_good_answer_first() -> None:
    good, bad = YesNoJudgePrompt().given(TALK)
    assert good[:-1] == bad[:-1] == YesNoJudgePrompt().build_prompt(TALK)
    assert [turns[-1] for turns in (good, bad)] == [Message(role="assistant", content=word) for word in ("Yes", "No")]
