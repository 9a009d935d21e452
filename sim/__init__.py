"""What a plan would cost: a simulated step on a cluster, down to the messages on its links."""

from sim.network.flows import Flow, Flows, simulate_flows

__all__ = ["Flow", "Flows", "simulate_flows"]
