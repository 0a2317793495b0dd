"""`appliance topology`: what this machine offers and how it would be shared out."""

from __future__ import annotations

import argparse
import json
from typing import Any

from appliance.engine.placement import describe, plan_threads, to_json
from appliance.engine.topology import read_topology


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "topology", help="show the CPUs and where engine threads go", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--models", type=int, default=1, metavar="N", help="plan for this many models (default: 1)")
    parser.add_argument("--encoders", type=int, default=0, metavar="N", help="and this many that embed, rerank or classify beside them")
    parser.add_argument("-t", "--threads", type=int, default=None, metavar="N", help="threads of each engine")
    parser.add_argument("--cpus", default=None, metavar="LIST", help="CPUs for the engines, such as 0-3,8")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the plan. Raises ConfigError for wishes that cannot be met."""
    topology = read_topology()
    placement = plan_threads(topology, arguments.threads, arguments.cpus, children=arguments.models, encoders=arguments.encoders)
    print(json.dumps(to_json(topology, placement), indent=2) if arguments.json else describe(topology, placement))
    return 0
