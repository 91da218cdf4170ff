"""Where on a cluster something starts that computes nothing."""

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def beside_me() -> NodeAffinitySchedulingStrategy:
    """On the machine of whoever starts it, so that no machine with devices is kept for it, and none takes it along.

    Not softly: of what takes no resources, Ray ignores that, and puts it anywhere.
    """
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
