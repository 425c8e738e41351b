"""GraphSession: a session on a graph, with what was prepared in it for each signature."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2


class GraphSession:
    """Holds the variables of one version at a time. `run` is safe to use from many threads."""

    def __init__(self, graph: tf.Graph, signatures: Mapping[str, Any], config: Any = None) -> None:
        """Opens it; no variable has a value yet."""
        self._signatures = signatures
        self._callables: dict[str, Any] = {}
        self._session = tf.compat.v1.Session(graph=graph, config=config)

    def run_operation(self, name: str, feeds: Mapping[str, str]) -> None:
        """Runs one operation, with strings by the tensor that takes them: what reads variables or fills tables."""
        self._session.run(self._session.graph.as_graph_element(name), feed_dict=dict(feeds))

    def run(self, signature_name: str, feeds: Sequence[np.ndarray]) -> list[Any]:
        """Values of a signature's outputs, for its inputs, both in the order of their names."""
        # Two threads may make the same one at the same time; either is good.
        if signature_name not in self._callables:
            self._callables[signature_name] = self._callable(self._signatures[signature_name])
        return self._callables[signature_name](*feeds)

    def close(self) -> None:
        """Frees variables and all else. No request may be under way."""
        self._callables.clear()
        self._session.close()

    def _callable(self, signature: Any) -> Any:
        """One for each signature, not for each output filter: callers choose those, and there are many."""
        options = config_pb2.CallableOptions()
        options.feed.extend(signature.inputs[name].name for name in sorted(signature.inputs))
        options.fetch.extend(signature.outputs[name].name for name in sorted(signature.outputs))
        # `make_callable` with feeds is `Session.run` in disguise, which looks each of them up by name at each call.
        return self._session._make_callable_from_options(options)
