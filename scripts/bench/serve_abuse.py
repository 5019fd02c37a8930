"""Ten thousand requests of a hundred clients at once, of which some are slow, go away, send 10 MB or broken images.

    python scripts/bench/serve_abuse.py BINARY MODEL_FOLDER IMAGE [--requests 10000]

All that is well asked must be answered (200, or 503 where there is no room), all that is not with 4xx; the process must
live on, and take no more memory at the end than after the first tenth. Before that it is warmed up, by all clients at
once with each kind in turn (32 with the largest), and a thousand requests as they come: what an allocator keeps of a peak is
no leak, and a peak that comes late by chance would look like one. Then 512 clients ask and never read; who comes after
them is answered. Prints one line of JSON; ends with 1 where not.
"""

import argparse
import asyncio
import base64
import collections
import contextlib
import json
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile

arguments = argparse.ArgumentParser()
arguments.add_argument("binary")
arguments.add_argument("model")
arguments.add_argument("image")
arguments.add_argument("--requests", type=int, default=10_000)
arguments.add_argument("--clients", type=int, default=100)
options = arguments.parse_args()

PNG = pathlib.Path(options.image).read_bytes()
random.seed(0)
counts = collections.Counter()
failures = []


def post(path, body, kind="application/json"):
    head = f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return (head + "Connection: close\r\n\r\n").encode() + body


def broken():
    data = bytearray(PNG)
    for _ in range(random.randrange(1, 20)):
        data[random.randrange(len(data))] = random.randrange(256)
    return bytes(data[: random.randrange(1, len(data))])


async def answer(sent, slow=0):
    reader, writer = await asyncio.open_connection(*address.split(":"))
    try:
        if slow:
            for at in range(0, len(sent), len(sent) // slow + 1):
                writer.write(sent[at : at + len(sent) // slow + 1])
                await writer.drain()
                await asyncio.sleep(0.2)
        else:
            writer.write(sent)
            await writer.drain()
        return int((await asyncio.wait_for(reader.readline(), 60)).split()[1])
    finally:
        writer.close()


async def cut(sent):
    _, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(sent[: random.randrange(len(sent))])
    await writer.drain()
    writer.transport.abort()


KINDS = {"text": 50, "image": 8, "zero": 2, "broken": 10, "cut": 10, "slow": 3, "large": 1, "bad": 16}


async def one(kind=None):
    kind = kind or random.choices(list(KINDS), list(KINDS.values()))[0]
    text = json.dumps({"input": f"Left effusion {random.random()}."}).encode()
    image = json.dumps({"input": {"image": base64.b64encode(PNG).decode()}}).encode()
    try:
        match kind:
            case "text":
                status, good = await answer(post("/v1/embeddings", text)), (200, 503)
            case "image":
                status, good = await answer(post("/v1/embeddings", image)), (200, 503)
            case "zero":
                status, good = await answer(post("/zero-shot", PNG, "image/png")), (404,)
            case "broken":
                status, good = await answer(post("/v1/embeddings", broken(), "image/png")), (200, 400, 503)
            case "cut":
                await cut(post("/v1/embeddings", image))
                status, good = 0, (0,)
            case "slow":
                status, good = await answer(post("/v1/embeddings", text), slow=10), (200, 503)
            case "large":
                body = random.randbytes(10_000_000)
                status, good = await answer(post("/v1/embeddings", body, "image/png")), (400, 503)
            case _:
                status, good = await answer(post("/v1/embeddings", random.randbytes(200))), (400,)
    except (OSError, asyncio.TimeoutError, IndexError) as error:
        status, good = type(error).__name__, ()
    counts[f"{kind} {status}"] += 1
    if status not in good:
        failures.append(f"{kind} {status}")


def resident():
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


async def warm_up():
    for kind in KINDS:
        # More of the largest than the server has room for, and no more than are sent within its time.
        count = 32 if kind == "large" else options.clients
        await asyncio.gather(*(one(kind) for _ in range(count)))


async def many(count):
    left = iter(range(count))

    async def client():
        for _ in left:
            await one()

    await asyncio.gather(*(client() for _ in range(options.clients)))


def deaf():
    """A client that asks much and reads nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    host, port = address.split(":")
    client.connect((host, int(port)))
    client.setblocking(False)
    ask = f"GET /page.js HTTP/1.1\r\nHost: {address}\r\n\r\n".encode() * 1000
    with contextlib.suppress(BlockingIOError):
        client.send(ask)
    return client


async def after_the_deaf():
    clients = [deaf() for _ in range(512)]
    await asyncio.sleep(1)
    try:
        status = await answer(f"GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
    except (OSError, asyncio.TimeoutError, IndexError) as error:
        status = type(error).__name__
    counts[f"after the deaf {status}"] += 1
    if status != 200:
        failures.append(f"after the deaf {status}")
    for client in clients:
        client.close()


# A pipe that nobody reads would stop the server once it is full.
log = tempfile.TemporaryFile()
process = subprocess.Popen(
    [options.binary, "serve", "--model", options.model, "--port", "0"], stdout=subprocess.PIPE, stderr=log
)
address = process.stdout.readline().decode().split("//")[1].strip()
memory = [round(resident(), 1)]
asyncio.run(warm_up())
asyncio.run(many(1000))
for _ in range(10):
    asyncio.run(many(options.requests // 10))
    memory.append(round(resident(), 1))
asyncio.run(after_the_deaf())
alive = process.poll() is None
process.send_signal(signal.SIGTERM)
process.wait(timeout=90)
log.seek(0)
said = log.read().decode()
grown = memory[-1] - memory[1]
good = alive and not failures and process.returncode == 0 and grown < 0.05 * memory[1] and "a bug" not in said
told = {"good": good, "exit": process.returncode, "resident_mib": memory, "counts": dict(sorted(counts.items()))}
print(json.dumps(told))
print("\n".join(failures[:10]), file=sys.stderr)
sys.exit(not good)
