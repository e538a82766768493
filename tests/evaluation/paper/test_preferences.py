"""The blind poll: questions, votes that last, Bradley-Terry scores, and the page over a real socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import expect

from service.evaluation.paper.preference_page import make_server
from service.evaluation.paper.preferences import Poll, Question, Vote, bradley_terry, estimated_scores
from tests.support.browser import chromium
from tests.support.tools import need

pytestmark = pytest.mark.slow

ARMS = ("plain", "pfb-sac", "rep")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As much of a run as a poll reads."""
    (tmp_path / "run.json").write_text("{}")
    lines = []
    for arm in (*ARMS, "copy"):
        for row, column in ((0, 0), (0, 1), (1, 0)):
            image = f"{arm}-{row}-{column}.webp"
            (tmp_path / image).write_bytes(f"image of {row} {column} by a method".encode())
            place = {"arm": arm, "row": row, "column": column, "prompt": f"prompt {row}", "image": image}
            lines.append(json.dumps(place))
    (tmp_path / "scores.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_every_pair_is_asked_once_in_a_seeded_order_on_either_side(folder: Path) -> None:
    questions = Poll(folder).questions
    assert questions == Poll(folder).questions
    assert len({(q.row, q.column, frozenset((q.left, q.right))) for q in questions}) == len(questions) == 9
    assert {q.left for q in questions} == set(ARMS)


def test_votes_last_and_the_last_one_can_be_taken_back(folder: Path) -> None:
    poll = Poll(folder)
    for choice in ("left", "equal"):
        question = poll.next()
        assert question is not None
        poll.add(question, choice)
    again = Poll(folder)
    assert again.votes == poll.votes
    assert again.next() == poll.next() == poll.questions[2]
    again.undo()
    assert Poll(folder).next() == poll.questions[1]
    with pytest.raises(ValueError, match="not the question which is asked now"):
        again.add(poll.questions[5], "left")
    with pytest.raises(ValueError, match="one of left, right, equal"):
        again.add(poll.questions[1], "both")


def test_a_folder_without_a_run_and_unknown_arms_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no run\.json"):
        Poll(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no images of dall-e; it has plain, pfb-sac, rep, copy"):
        Poll(folder, ["plain", "dall-e"])
    with pytest.raises(ValueError, match="Two things at least"):
        Poll(folder, ["plain", "plain"])


def test_scores_are_recovered_from_votes_that_follow_them() -> None:
    truth, rng = {"a": 1.0, "b": 0.0, "c": -1.0}, np.random.default_rng(0)
    votes = []
    for index in range(1_500):
        left, right = rng.permutation(list(truth))[:2].tolist()
        is_left = rng.random() < 1 / (1 + np.exp(truth[right] - truth[left]))
        votes.append(Vote(Question(index, 0, left, right), "left" if is_left else "right"))
    found = estimated_scores(votes, list(truth))
    for name, score in truth.items():
        assert found[name].low < score < found[name].high
        assert found[name].high - found[name].low < 0.5
    few = estimated_scores(votes[:60], list(truth))
    assert few["a"].high - few["a"].low > 2 * (found["a"].high - found["a"].low)


def test_an_arm_that_never_lost_has_a_finite_score_and_equals_are_equal() -> None:
    always = bradley_terry(np.array([[0.0, 10.0], [0.0, 0.0]]))
    assert 1 < always[0] < 10
    assert bradley_terry(np.array([[0.0, 5.0], [5.0, 0.0]])) == pytest.approx([0, 0])


@pytest.fixture
def page(folder: Path) -> Iterator[httpx.Client]:
    with make_server(Poll(folder), 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}") as client:
                yield client
        finally:
            server.shutdown()
            thread.join()


def test_the_page_asks_shows_keeps_and_says_no_name_before_the_scores(
    page: httpx.Client, folder: Path
) -> None:
    assert "<h1>Which is better?</h1>" in page.get("/").text
    first = page.get("/question").json()
    assert first == {"num_votes": 0, "num_questions": 9, "number": 0, "prompt": first["prompt"]}
    seen = json.dumps(first)
    for side in ("left", "right", "style"):
        response = page.get(f"/image/{first['number']}/{side}")
        assert response.headers["content-type"] == "image/webp"
        seen += response.text + str(response.headers)
    assert not [arm for arm in ARMS if arm in seen]
    assert page.get("/scores").json() == {}
    second = page.post("/vote", json={"number": 0, "choice": "left"}).json()
    assert (second["num_votes"], second["number"]) == (1, 1)
    assert set(page.get("/scores").json()) == set(ARMS)
    assert page.post("/undo", json={}).json()["number"] == 0
    assert Poll(folder).votes == []


def test_the_page_refuses_what_is_not_its_own(page: httpx.Client) -> None:
    assert page.get("/question", headers={"Host": "evil.example"}).status_code == 403
    vote = {"number": 0, "choice": "left"}
    assert page.post("/vote", json=vote, headers={"Origin": "http://evil.example"}).status_code == 403
    vote_of = {"number": 4, "choice": "left"}, {"number": 0, "choice": "x"}, {"number": "x"}
    bodies: list[object] = [*vote_of, [], {}]
    for body in bodies:
        assert page.post("/vote", json=body).status_code == 400
    assert page.post("/vote", content=b"x" * 2_000).status_code == 400
    for path in (
        "/image/0/../run.json",
        "/image/99/left",
        "/image/-1/left",
        "/scores.jsonl",
        "/images/0/left",
    ):
        assert page.get(path).status_code == 404
    assert page.get("/question").json()["num_votes"] == 0


def test_the_arrow_keys_vote_and_backspace_takes_a_vote_back(page: httpx.Client, folder: Path) -> None:
    with chromium(need("chromium")) as browser:
        window = browser.new_page()
        window.goto(str(page.base_url))
        count = window.get_by_role("status")
        expect(count).to_have_text("0 of 9 answered")
        for number, key in enumerate(("ArrowLeft", "ArrowRight", "ArrowDown"), start=1):
            window.keyboard.press(key)
            expect(count).to_have_text(f"{number} of 9 answered")
        window.keyboard.press("Backspace")
        expect(count).to_have_text("2 of 9 answered")
        window.get_by_role("button", name="Show the scores").click()
        expect(window.get_by_role("row")).to_have_count(1 + len(ARMS))
    assert [vote.choice for vote in Poll(folder).votes] == ["left", "right"]
