"""The queue: order, limits, cancelling, time limits, and the end of the server."""

import asyncio
import json
import socket
import threading
import time

import httpx
import pytest

from dflash_mlx.server.events import Waiting
from dflash_mlx.server.respond import Inbox
from dflash_mlx.server.settings import Access, Decoding, Limits, Settings
from tests.equipment.live_server import LiveServer, data_of

LONG = "one two three " * 1000  # a prefill of some seconds in chunks of 16
PATH = "/v1/chat/completions"


def settings(**limits) -> Settings:
    return Settings(
        access=Access(port=0),
        limits=Limits(**limits),
        decoding=Decoding(prefill_step_size=16),
    )


@pytest.fixture(scope="module")
def slow(tiny):
    """A server whose prefill is slow, since its chunks are small."""
    with LiveServer(*tiny, settings(max_queue=2)) as live:
        yield live


def body(text: str, **more) -> dict:
    return {"messages": [{"role": "user", "content": text}]} | more


def send(server, fields: dict) -> socket.socket:
    """Send a request, and return its connection without reading an answer."""
    data = json.dumps(fields).encode()
    connection = socket.create_connection(("127.0.0.1", server.http.base_url.port))
    head = (
        f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(data)}\r\n\r\n"
    )
    connection.sendall(head.encode() + data)
    return connection


def wait(condition, seconds: float = 10.0) -> float:
    """Wait for a condition; return the seconds that it took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds
        time.sleep(0.002)
    return time.monotonic() - begun


def is_idle(server) -> bool:
    return not server.scheduler.running and not server.scheduler.waiting


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_in_the_prefill_frees_its_turn(slow, stream):
    connection = send(slow, body(LONG, stream=stream))
    wait(lambda: slow.scheduler.running)
    time.sleep(0.1)
    assert not is_idle(slow)
    connection.close()
    assert wait(lambda: is_idle(slow)) < 0.5


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_while_decoding_frees_its_turn(slow, stream):
    begun = threading.Event()
    deliver = slow.scheduler.submit

    def submit(job):
        inner = job.deliver

        def watch(events):
            inner(events)
            if any(type(event).__name__ == "Step" for event in events):
                begun.set()

        job.deliver = watch
        deliver(job)

    slow.scheduler.submit = submit
    fields = body("Count.", stream=stream, max_tokens=6000, temperature=5, seed=1)
    fields["logit_bias"] = {"2": -100}  # never ends
    connection = send(slow, fields)
    assert begun.wait(10)
    slow.scheduler.submit = deliver
    connection.close()
    assert wait(lambda: is_idle(slow)) < 0.5


def test_a_waiting_request_whose_client_goes_away_is_dropped(slow):
    first = send(slow, body(LONG))
    wait(lambda: slow.scheduler.running)
    second = send(slow, body("Hello!"))
    wait(lambda: len(slow.scheduler.waiting) == 1)
    second.close()
    assert wait(lambda: not slow.scheduler.waiting) < 0.5
    first.close()
    wait(lambda: is_idle(slow))


def test_the_next_request_starts_at_once_after_a_cut(slow):
    connection = send(slow, body(LONG))
    wait(lambda: slow.scheduler.running)
    time.sleep(0.1)
    connection.close()
    begun = time.monotonic()
    assert slow.chat("Hello!", max_tokens=1)["usage"]["completion_tokens"] == 1
    assert time.monotonic() - begun < 1.0


def test_a_full_queue_refuses_with_a_time_to_try_again(slow):
    connections = [send(slow, body(LONG))]
    wait(lambda: slow.scheduler.running)
    connections += [send(slow, body("Hello!")) for _ in range(2)]
    wait(lambda: len(slow.scheduler.waiting) == 2)
    refused = slow.post(PATH, body("Hello!"))
    assert refused.status_code == 429 and refused.headers["retry-after"] == "5"
    assert refused.json()["error"]["type"] == "rate_limit_error"
    for connection in connections:
        connection.close()
    wait(lambda: is_idle(slow))


def test_requests_are_answered_in_order_and_told_their_place(slow):
    first = send(slow, body(LONG))
    wait(lambda: slow.scheduler.running)
    frames = []

    def ask():
        with slow.http.stream("POST", PATH, json=body("Hi!", stream=True)) as got:
            frames.extend(got.iter_lines())

    thread = threading.Thread(target=ask)
    thread.start()
    wait(lambda: ": queued 1" in frames)
    first.close()
    thread.join(20)
    assert frames[-2:] == ["data: [DONE]", ""] or frames[-1] == "data: [DONE]"


def test_progress_of_the_prefill_is_told(slow):
    frames = slow.frames(PATH, body("seven nine " * 60, max_tokens=1))
    told = [frame for frame in frames if frame.startswith(": prefill")]
    done = [int(frame.split()[2].split("/")[0]) for frame in told]
    assert done == sorted(done) and len(done) > 5


def test_an_answer_that_takes_too_long_ends_with_an_error(tiny):
    with LiveServer(*tiny, settings(timeout=0.3)) as live:
        response = live.post(PATH, body(LONG))
        assert response.status_code == 504
        assert response.json()["error"]["code"] == "timeout"
        assert response.headers["x-should-retry"] == "false"
        wait(lambda: is_idle(live))


def test_a_bug_is_answered_and_the_next_request_too(slow, monkeypatch, caplog):
    from dflash_mlx.server import scheduler

    def fail(turn):
        raise KeyError("bug")

    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "answer", fail)
        whole = slow.post(PATH, body("Hello!"))
        streamed = slow.post(PATH, body("Hello!", stream=True))
    for response in (whole, streamed):
        assert response.status_code == 500
        assert response.json()["error"]["type"] == "server_error"
        assert response.headers["x-should-retry"] == "false"
    assert "KeyError: 'bug'" in caplog.text
    assert slow.chat("Hello!", max_tokens=1)["usage"]["completion_tokens"] == 1


def test_a_bug_that_breaks_the_caches_too_makes_the_model_load_again(
    tiny, monkeypatch, caplog
):
    from dflash_mlx.server import scheduler

    def fail(*args):
        raise KeyError("bug")

    with LiveServer(*tiny) as live:
        with monkeypatch.context() as patch:
            patch.setattr(scheduler, "answer", fail)
            patch.setattr(live.models.loaded.prefixes, "reset", fail)
            assert live.post(PATH, body("Hello!")).status_code == 500
            wait(lambda: is_idle(live))
        assert "loaded again" in caplog.text and not live.loads
        assert live.chat("Hello!", max_tokens=1)["usage"]["completion_tokens"] == 1
        assert live.loads == ["tiny"]


def test_an_error_inside_a_stream_is_a_frame(slow, monkeypatch):
    from dflash_mlx.server.answer import ChoiceAnswer

    with monkeypatch.context() as patch:
        patch.setattr(ChoiceAnswer, "_finish", lambda self, last: 1 / 0)
        frames = slow.frames(PATH, body("What is 12 + 34?"))
    *_, last = data_of(frames)
    assert last["error"]["type"] == "server_error" and "[DONE]" not in frames[-1]


def test_the_end_of_the_server_ends_streams_with_an_error(tiny):
    lines = []
    with LiveServer(*tiny, settings()) as live:

        def ask():
            with httpx.stream(
                "POST", live.url + PATH, json=body(LONG, stream=True)
            ) as r:
                lines.extend(r.iter_lines())

        thread = threading.Thread(target=ask)
        thread.start()
        wait(lambda: any("prefill" in line for line in lines))
        begun = time.monotonic()
    assert time.monotonic() - begun < 2.0
    thread.join(5)
    (error,) = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert error["error"]["message"] == "The server is shutting down."


def test_the_end_of_the_server_waits_for_no_load(tiny):
    gate, answers = threading.Event(), []
    with LiveServer(*tiny, others=("second",)) as live:
        load = live.models.load

        def slow_load(name):
            assert gate.wait(20)
            return load(name)

        def ask():
            answers.append(live.post(PATH, body("Hi!", model="second")))

        live.models.load = slow_load
        thread = threading.Thread(target=ask)
        thread.start()
        wait(lambda: live.models.loading == "second")
        assert live.http.get("/status").json()["state"] == "loading"
        assert not live.scheduler.stop(0.0)
        thread.join(5)
        assert answers[0].status_code == 503
        assert live.post(PATH, body("Hi!")).status_code == 503
        gate.set()
    assert is_idle(live)


def test_events_for_a_server_that_has_ended_are_dropped():
    async def make():
        return Inbox()

    inbox = asyncio.run(make())
    inbox.deliver([Waiting(1)])


def requests_with_cuts(server, count: int, every: int) -> None:
    """Send short requests, of which each `every`th is cut."""
    for i in range(count):
        fields = body(f"What is {i} + {i}?", max_tokens=4, stream=bool(i % 2))
        if i % every == 0:
            connection = send(server, fields)
            if i % (2 * every):
                wait(lambda: server.scheduler.running or is_idle(server))
            connection.close()
        else:
            assert server.post(PATH, fields).status_code == 200
    wait(lambda: is_idle(server))


def memory() -> int:
    """Bytes of this process's memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def own_threads() -> int:
    """Threads, without those of the pool that makes prompts."""
    names = [thread.name for thread in threading.enumerate()]
    return len([name for name in names if not name.startswith("AnyIO")])


def check_many_requests(tiny, caplog, count: int, warm: int) -> None:
    before = own_threads()
    with LiveServer(*tiny) as live:
        requests_with_cuts(live, warm, 20)
        threads, held = own_threads(), memory()
        requests_with_cuts(live, count, 20)
        wait(lambda: own_threads() <= threads)  # one may still write what was learnt
        assert memory() - held < 24 << 20
    wait(lambda: own_threads() <= before)
    assert "running task" not in caplog.text  # none had to be cancelled at the end


@pytest.mark.slow
def test_many_short_requests_leave_nothing_behind(tiny, caplog):
    check_many_requests(tiny, caplog, 40, warm=20)


@pytest.mark.full("server")
def test_a_thousand_short_requests_leave_nothing_behind(tiny, caplog):
    check_many_requests(tiny, caplog, 1000, warm=60)


def test_metrics_have_vllms_names(server):
    server.chat("What is 12 + 34?")
    text = server.http.get("/metrics").text
    values = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            values[name] = float(value)
    label = '{model_name="tiny"}'
    assert values[f"vllm:prompt_tokens_total{label}"] > 0
    assert values[f"vllm:generation_tokens_total{label}"] > 0
    success = 'vllm:request_success_total{finished_reason="stop",model_name="tiny"}'
    assert values[success] >= 1
    drafted = values[f"vllm:spec_decode_num_draft_tokens_total{label}"]
    accepted = values[f"vllm:spec_decode_num_accepted_tokens_total{label}"]
    assert 0 < accepted <= drafted
    places = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
    first = values[places + '{model_name="tiny",position="0"}']
    assert 0 < first <= values[f"vllm:spec_decode_num_drafts_total{label}"]
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds"):
        assert values[f"vllm:{name}_count{label}"] >= 1
    assert values[f"vllm:num_requests_running{label}"] == 0
    assert 0 < values[f"vllm:kv_cache_usage_perc{label}"] < 1
