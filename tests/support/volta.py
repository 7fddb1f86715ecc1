"""The true names, shapes, configs and totals of BERT and the five VoLTA models, as the package ships them."""

import json
from functools import cache
from importlib import resources
from typing import Any


@cache
def data(name: str) -> dict[str, Any]:
    return json.loads(resources.files("weighbridge.engine").joinpath("data", "volta", f"{name}.json").read_text())
