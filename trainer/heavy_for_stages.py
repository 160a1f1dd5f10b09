"""What takes long to import beside `trainer.heavy`, and only the processes of a stage import.

verl and Ray bring it along. A worker's Ray must find its environment, so that neither is imported
here, nor anything that imports Ray.
"""

import aiohttp  # noqa: F401
import datasets  # noqa: F401
import fastapi  # noqa: F401
import google.protobuf.json_format  # noqa: F401
import jsonschema  # noqa: F401
import msgspec  # noqa: F401
import peft  # noqa: F401
import requests  # noqa: F401
import tensordict  # noqa: F401
import torch.distributed.fsdp
import torch.distributed.tensor  # noqa: F401
import torchdata.stateful_dataloader  # noqa: F401
import uvicorn  # noqa: F401
import zmq.asyncio  # noqa: F401

import conf.compose
import conf.schema  # noqa: F401
