"""Tests of tetlo_plugin.py that need no tetlo. Prints `all passed`."""

import io
import os
import pty
import subprocess
import sys
import tempfile
import textwrap
import time

import numpy as np
import tetlo_plugin as tetlo


@tetlo.transfer_loss("noisy", options={"power": tetlo.integer(2, minimum=1)},
                     needs=lambda options: ["embeddings", "logits", "maps", "labels"])
def noisy(batch, options):
    """A random weight on powers of what is seen."""
    weight, power = batch.draws.uniform() + batch.rng.uniform(), options["power"]
    value = weight * (batch.main**power).sum() + batch.aux.sum() + (batch.main_logits**2).sum()
    value += sum((m**2).sum() for m in batch.aux_maps) + batch.labels.sum()
    return value, {"main": weight * power * batch.main ** (power - 1), "aux": np.ones(batch.aux.shape),
                   "main_logits": 2 * batch.main_logits, "aux_logits": None, "main_maps": None,
                   "aux_maps": [2 * m for m in batch.aux_maps]}


@tetlo.transfer_loss("wrong", summary="a slope that is twice too steep", reaches_main=False)
def wrong(batch, options):
    return (batch.aux**2).sum(), {"aux": 4 * batch.aux}


@tetlo.transfer_loss("broken", summary="answers as it is told", options={"answer": tetlo.text("")})
def broken(batch, options):
    right = {"main": batch.main, "aux": batch.aux}
    return {"no pair": 3.0, "a list of values": (np.ones(2), right), "unknown": (1.0, {**right, "x": 1}),
            "maps": (1.0, {**right, "main_maps": [1]})}[options["answer"]]


def error_of(call):
    try:
        call()
    except tetlo.PluginError as error:
        return str(error)
    raise AssertionError("it must be refused")


def test_gradients_against_differences():
    batch = tetlo.example_batch(4, dims=(3, 2), classes=3, maps=[(1, 2, 2)])
    for power in (2, 3):
        assert tetlo.gradient_error(noisy, batch, {"power": power}) < 1e-7
    assert 0.9 < tetlo.gradient_error(wrong, tetlo.example_batch()) < 1.1


def test_a_batch_says_what_is_wanted():
    arrays = {name: np.zeros((2, 2)) for name in ("main", "main_logits", "main_maps_0", "aux_maps_0")}
    batch = tetlo.Batch(2, arrays, wanted=["main_logits", "main_maps_0"])
    wanted = [batch.wants(name) for name in ("main", "main_logits", "main_maps", "aux_maps")]
    assert wanted == [False, True, True, False]
    assert batch.aux is None and len(batch.main_maps) == 1


def test_the_same_draws_in_every_pass():
    batches = [tetlo.example_batch(seed=3) for _ in range(2)]
    assert batches[0].rng.normal() == batches[1].rng.normal()
    assert batches[0].draws.normal() == batches[1].draws.normal()
    assert batches[0].draws.normal() != tetlo.example_batch(seed=4).draws.normal()


def test_known_answers_of_philox():
    words = tetlo.Stream([0] * 10 + [4])
    assert [words.next_u32() for _ in range(4)] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    words = tetlo.Stream([0xFFFFFFFF] * 6 + [0] * 4 + [4])
    assert [words.next_u32() for _ in range(4)] == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    # The counter's first word wraps without a carry.
    wrapped = tetlo.Stream([0xFFFFFFFF] * 2 + [0] + [0xFFFFFFFF] * 3 + [0] * 4 + [4])
    assert wrapped.next_u32() == words.next_u32()
    assert "11 numbers" in error_of(lambda: tetlo.Stream([1 << 32] + [0] * 10))


def test_options_are_schemas():
    assert tetlo.number(1.0, above=0, about="Factor.") == {
        "type": "number", "exclusiveMinimum": 0, "default": 1.0, "description": "Factor."}
    assert tetlo.integer(minimum=1) == {"type": ["integer", "null"], "minimum": 1}
    assert tetlo.boolean(True) == {"type": "boolean", "default": True}
    assert tetlo.text("x") == {"type": "string", "default": "x"}
    assert tetlo.choice("a", ("a", "b")) == {"enum": ["a", "b"], "default": "a"}


def test_wrong_answers_are_named():
    for answer, part in {"no pair": "value and its gradients", "a list of values": "shape (2,)",
                         "unknown": "a gradient in `x`", "maps": "1 gradients for the 0 `main_maps`"}.items():
        text = error_of(lambda: tetlo.gradient_error(broken, tetlo.example_batch(), {"answer": answer}))
        assert part in text, text


def test_frames_come_back():
    arrays = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.float64(2.5), "c": np.arange(3, dtype=np.float32)}
    pipe = io.BytesIO()
    tetlo._write(pipe, {"id": "ü"}, arrays)
    pipe.seek(0)
    texts, read = tetlo._read(pipe)
    assert texts == {"id": "ü"} and list(read) == list(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype and np.array_equal(read[name], array)
        assert read[name].flags.writeable
    assert tetlo._read(pipe) is None


SCRIPT = """
import tetlo_plugin as tetlo
@tetlo.stop_rule("endless", summary="never answers")
def endless(trace, options):
    while True:
        pass
tetlo.serve()
"""


def write_script():
    folder = tempfile.TemporaryDirectory()
    path = os.path.join(folder.name, "endless.py")
    with open(path, "w") as file:
        file.write(SCRIPT)
    return folder, path


ENVIRONMENT = dict(os.environ, PYTHONPATH=os.path.dirname(os.path.abspath(tetlo.__file__)))


def test_by_hand_it_says_what_it_is():
    folder, path = write_script()
    with folder:
        host, terminal = pty.openpty()
        said = subprocess.run([sys.executable, path], stdin=terminal, env=ENVIRONMENT, capture_output=True,
                              text=True, timeout=60, check=True).stdout
        os.close(host)
        os.close(terminal)
    assert said.startswith("endless.py: stop-rule `endless` 0.1.0 for tetlo: never answers\n"), said
    assert f"tetlo plugins check {path}" in said, said


def test_it_ends_with_its_host_even_in_an_endless_loop():
    folder, path = write_script()
    host = textwrap.dedent("""
        import subprocess, sys, time
        import tetlo_plugin as tetlo
        pipe = subprocess.PIPE
        child = subprocess.Popen([sys.executable, sys.argv[1]], stdin=pipe, stdout=pipe)
        create = {"call": "create", "kind": "stop-rule", "name": "endless", "options": "{}"}
        tetlo._write(child.stdin, create, {})
        child.stdin.flush()
        assert "looks" in tetlo._read(child.stdout)[0]
        tetlo._write(child.stdin, {"call": "stop", "trace": "{}"}, {})
        child.stdin.flush()
        print(child.pid, flush=True)
        time.sleep(1000)
    """)
    with folder:
        parent = subprocess.Popen([sys.executable, "-c", host, path], stdout=subprocess.PIPE, env=ENVIRONMENT)
        child = int(parent.stdout.readline())
        time.sleep(0.2)
        os.kill(child, 0)
        parent.kill()
        parent.wait()
        end = time.monotonic() + 20
        while time.monotonic() < end and os.path.exists(f"/proc/{child}"):
            with open(f"/proc/{child}/stat") as file:
                if ") Z" in file.read():
                    return
            time.sleep(0.05)
        assert not os.path.exists(f"/proc/{child}"), "the child lives on"


if __name__ == "__main__":
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
            print(name)
    print("all passed")
