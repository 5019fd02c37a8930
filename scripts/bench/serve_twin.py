"""The same server in Python: FastAPI, uvicorn and transformers, requests that share batches within the same window.

    pip install fastapi uvicorn transformers torch pillow
    python scripts/bench/serve_twin.py MODEL_FOLDER PORT [--window-ms 5] [--max-batch 32] [--queue 256]
"""

import argparse
import asyncio
import base64
import io

import torch
import uvicorn
from fastapi import FastAPI, HTTPException
from PIL import Image
from pydantic import BaseModel
from transformers import AutoModel, AutoProcessor

arguments = argparse.ArgumentParser()
arguments.add_argument("model")
arguments.add_argument("port", type=int)
arguments.add_argument("--window-ms", type=float, default=5)
arguments.add_argument("--max-batch", type=int, default=32)
arguments.add_argument("--queue", type=int, default=256)
options = arguments.parse_args()

model = AutoModel.from_pretrained(options.model).eval()
processor = AutoProcessor.from_pretrained(options.model)
queue: asyncio.Queue = asyncio.Queue(options.queue)
app = FastAPI()


class Request(BaseModel):
    input: str | dict


def features(output):
    """Newer versions of transformers give the pooled features with the rest."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def encode(items):
    rows = [None] * len(items)
    with torch.inference_mode():
        for kind in ("text", "image"):
            at = [i for i, (k, _) in enumerate(items) if k == kind]
            if not at:
                continue
            values = [items[i][1] for i in at]
            if kind == "text":
                given = processor.tokenizer(values, padding=True, truncation=True, return_tensors="pt")
                found = features(model.get_text_features(**given))
            else:
                found = features(model.get_image_features(pixel_values=torch.cat(values)))
            for i, row in zip(at, torch.nn.functional.normalize(found, dim=-1).tolist()):
                rows[i] = row
    return rows


def pixels(data):
    image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    return processor.image_processor(image, return_tensors="pt")["pixel_values"]


async def work():
    loop = asyncio.get_running_loop()
    while True:
        batch = [await queue.get()]
        full = loop.time() + options.window_ms / 1000
        while len(batch) < options.max_batch:
            try:
                batch.append(await asyncio.wait_for(queue.get(), full - loop.time()))
            except asyncio.TimeoutError:
                break
        rows = await asyncio.to_thread(encode, [item for item, _ in batch])
        for (_, reply), row in zip(batch, rows):
            if not reply.done():
                reply.set_result(row)


@app.on_event("startup")
async def start():
    app.state.worker = asyncio.create_task(work())


@app.post("/v1/embeddings")
async def embeddings(request: Request):
    if isinstance(request.input, str):
        item = ("text", request.input)
    else:
        item = ("image", await asyncio.to_thread(pixels, request.input["image"]))
    reply = asyncio.get_running_loop().create_future()
    try:
        queue.put_nowait((item, reply))
    except asyncio.QueueFull:
        raise HTTPException(503, headers={"Retry-After": "1"}) from None
    row = await reply
    return {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": row}]}


@app.get("/health")
async def health():
    return {"status": "ok"}


uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")
