"""A live-streaming platform whose future is partly foretold by its present; docs/simulator.md describes the process."""

from beam_transforms.sources.simulator.behaviour import Behaviour
from beam_transforms.sources.simulator.simulation import simulate
from beam_transforms.sources.simulator.simulation_summary import SimulationSummary
from beam_transforms.sources.simulator.simulator_config import PRESETS, SimulatorConfig

__all__ = ["PRESETS", "Behaviour", "SimulationSummary", "SimulatorConfig", "simulate"]
