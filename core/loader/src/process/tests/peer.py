"""A peer that speaks the protocol with the standard library alone, and misbehaves as its argument says.

The loss is 0.5 Σ main² + Σ aux, the penalty 0.5 Σ alphas_0², gradients by hand; the rule stops after the
last epoch and returns the first; the selection returns the genotype in the options.
"""

import json
import os
import struct
import sys
import time

MODE = sys.argv[1]
SOURCE, SINK = sys.stdin.buffer, sys.stdout.buffer
CODES = {"F64": "d", "F32": "f", "I64": "q"}


def read():
    length = SOURCE.read(8)
    if len(length) < 8:
        return None
    data = SOURCE.read(struct.unpack("<Q", length)[0])
    size = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8:8 + size])
    texts, arrays = header.pop("__metadata__"), {}
    for name, about in header.items():
        begin, end = about["data_offsets"]
        part, code = data[8 + size + begin:8 + size + end], CODES[about["dtype"]]
        values = struct.unpack(f"<{len(part) // struct.calcsize(code)}{code}", part)
        arrays[name] = (about["dtype"], about["shape"], list(values))
    return texts, arrays


def frame(texts, arrays):
    header, body = {"__metadata__": texts}, b""
    for name, (dtype, shape, values) in arrays.items():
        part = struct.pack(f"<{len(values)}{CODES[dtype]}", *values)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(part)]}
        body += part
    header = json.dumps(header).encode()
    return struct.pack("<QQ", 8 + len(header) + len(body), len(header)) + header + body


def send(data):
    SINK.write(data)
    SINK.flush()


def manifest():
    kinds = ["transfer-loss", "regularizer", "stop-rule", "selection"]
    schema = {"properties": {"scale": {"type": "number", "default": 1.0}, "genotype": {"default": {}}}}
    peer = {"name": "peer", "version": "0.1.0", "summary": "a peer", "schema": schema}
    listed = [{"kind": kind, **peer} for kind in kinds]
    text = json.dumps(listed)
    return text.replace("1.0}", "NaN}") if MODE == "manifest-nan" else text


def differentiate(name, value, inputs, gradients, wanted):
    arrays = {name: ("F64", [], [value])}
    for key in wanted:
        dtype, shape, _ = inputs[key]
        arrays["grad_" + key] = (dtype, shape, gradients[key])
    return arrays


def answer(texts, arrays, state={}):
    call = texts["call"]
    if call == "hello":
        protocol = "2" if MODE == "protocol" else texts["protocol"]
        return {"protocol": protocol, "built_with": f"pid {os.getpid()}", "manifest": manifest()}, {}
    if call == "create":
        state.update(json.loads(texts["options"]))
        if state["scale"] < 0:
            return {"error": "`scale` is negative"}, {}
        looks = {"needs": ["embeddings", "labels"], "min_batch": 2, "reaches_main": MODE != "one-sided",
                 "invariances": ["order"], "dtypes": ["f32"] if MODE == "f32" else ["f64"]}
        if MODE == "looks":
            looks["needs"] = ["embeddings", "weights"]
        return {"looks": json.dumps(looks)}, {}
    if call == "loss":
        main, aux = arrays["main"], arrays["aux"]
        assert len(arrays["labels"][2]) == int(texts["images"]) and len(json.loads(texts["draws"])) == 11
        value = state["scale"] * (0.5 * sum(x * x for x in main[2]) + sum(aux[2]))
        gradients = {"main": [state["scale"] * x for x in main[2]], "aux": [state["scale"]] * len(aux[2])}
        wanted = json.loads(texts["wanted"])
        return {"seconds": "0.001"}, differentiate("loss", value, arrays, gradients, wanted)
    if call == "penalty":
        alpha = arrays["alphas_0"]
        value, wanted = 0.5 * sum(x * x for x in alpha[2]) + int(texts["epoch"]), json.loads(texts["wanted"])
        return {}, differentiate("penalty", value, arrays, {"alphas_0": alpha[2]}, wanted)
    if call == "stop":
        last = len(json.loads(texts["trace"])["genotype_per_epoch"]) - 1
        answers = {"later": f"[{last + 1}, 0]", "words": '"soon"', "never": "null"}
        return {"stop": answers.get(MODE, f"[{last}, 0]")}, {}
    space = json.loads(texts["space"])
    assert len(arrays["arch_parameters"][1]) == 2 and space["cells"]
    return {"genotype": json.dumps(state["genotype"])}, {}


def misbehave(reply, results):
    """Done in place of, or before, the answer to a call on numbers."""
    if MODE == "loop":
        while True:
            pass
    elif MODE == "family":
        if os.fork() == 0:
            time.sleep(1000)
        time.sleep(1000)
    elif MODE == "segfault":
        os.kill(os.getpid(), 11)
    elif MODE == "exit":
        print("out of\nideas", file=sys.stderr)
        sys.exit(3)
    elif MODE == "raise":
        raise ZeroDivisionError("by hand")
    elif MODE == "close":
        os.close(1)
        time.sleep(1000)
    elif MODE == "print":
        send(b"epoch 1: all is well\n")
    elif MODE == "cut":
        send(frame(reply, results)[:-3])
        os._exit(0)
    elif MODE == "huge":
        send(struct.pack("<Q", (1 << 30) + 1))
    elif MODE == "announce":
        send(struct.pack("<Q", 1 << 30) + b"{}")
        os._exit(0)
    elif MODE == "not-safetensors":
        send(struct.pack("<Q", 16) + b"0123456789abcdef")
    elif MODE == "twice":
        send(frame(reply, results))
    elif MODE == "no-id":
        del reply["id"]
    elif MODE == "error":
        reply, results = {"id": reply["id"], "error": "ValueError: not today (peer.py, line 7)"}, {}
    elif MODE == "seconds":
        reply["seconds"] = "soon"
    elif MODE == "missing":
        del results["grad_aux"]
    elif MODE == "no-loss":
        del results["loss"]
    elif MODE == "extra":
        results["grad_mian"] = results["grad_main"]
    elif MODE == "shape":
        results["grad_aux"] = (results["grad_aux"][0], results["grad_aux"][1][::-1], results["grad_aux"][2])
    elif MODE == "dtype":
        results["grad_aux"] = ("F32", *results["grad_aux"][1:])
    elif MODE == "integers":
        results["loss"] = ("I64", [], [3])
    elif MODE == "vector":
        results["loss"] = ("F64", [1], results["loss"][2])
    elif MODE == "nan":
        results["loss"] = ("F64", [], [float("nan")])
    elif MODE == "nan-gradient":
        results["grad_main"][2][0] = float("inf")
    return reply, results


if MODE == "mute":
    time.sleep(1000)
if MODE == "quit":
    sys.exit(0)
while (request := read()) is not None:
    reply, results = answer(*request)
    reply["id"] = request[0]["id"]
    if request[0]["call"] == "loss":
        reply, results = misbehave(reply, results)
    send(frame(reply, results))
    if MODE == "busy" and request[0]["call"] == "create":
        time.sleep(1000)
if MODE == "stubborn":
    time.sleep(1000)
