"""The `model-tools` command line: one verb a module, imported only when asked for."""

from __future__ import annotations

from importlib import import_module
from typing import NoReturn

import click

from model_tools import __version__, console

# In the order a user meets them. A module holds its verb as `command` and keeps heavy imports inside
# functions: the help imports them all.
VERBS = {
    "export": "model_tools.export",
    "quantize": "model_tools.quantize.command",
    "evaluate": "model_tools.evaluate.command",
    "engine": "model_tools.engine.command",
    "repository": "model_tools.repository",
    "serve": "model_tools.serve",
    "ladder": "model_tools.ladder.command",
    "tune": "model_tools.tune.command",
    "fetch": "model_tools.fetch",
    "latency-exporter": "model_tools.latency.command",
    "regions": "model_tools.regions.command",
    "plan": "model_tools.plan.command",
}


class Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command = import_module(VERBS[cmd_name]).command
        assert isinstance(command, click.Command)
        return command


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def cli() -> None:
    """From a TensorFlow model to a served one.

    \b
    model-tools export --output build/model            TensorFlow to ONNX, checked against TensorFlow
    model-tools quantize build/model build/int8 --precision int8 \\
        --calibration pictures/                        FP16 or INT8, calibrated
    model-tools evaluate build/int8 --reference build/model   what that cost in accuracy
    model-tools repository --model build/model \\
        --values values/local.yaml --output build/repository   config.pbtxt from the chart's values
    model-tools engine build --model build/model --cache build/engines \\
        --values values/local.yaml --output build/engine       compiled for this machine
    model-tools serve build/repository                 a local Triton, no cluster needed
    model-tools ladder values/ladder/cpu --local \\
        --model build/model --output build/ladder              what each optimisation buys
    model-tools tune --model build/model --max-p99 100 \\
        --output build/tuned                                   values that meet an objective best
    model-tools regions status                         the releases of a fleet, region by region
    model-tools plan traffic.yaml --gpu t4             how many nodes, and what they cost
    """


def main() -> NoReturn:
    console.run(cli, "model-tools")
