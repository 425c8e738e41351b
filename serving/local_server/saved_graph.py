"""SavedGraph: the graph of a SavedModel, imported once for all versions that have the same one."""

import threading
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from serving.local_server.graph_session import GraphSession

_INIT_SIGNATURE = "__saved_model_init_op"
_INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")

_HARMLESS = frozenset(
    [
        "AssignVariableOp",
        "AssignAddVariableOp",
        "AssignSubVariableOp",
        "VarHandleOp",
        "ReadVariableOp",
        "VarIsInitializedOp",
        "VariableShape",
        "ResourceGather",
        "ResourceGatherNd",
        "StatefulPartitionedCall",
        "If",
        "While",
        "Case",
        "Assert",
        "Print",
        "PrintV2",
        "RestoreV2",
        "SaveV2",
        "MergeV2Checkpoints",
        "DisableCopyOnRead",
        "_Arg",
        "_Retval",
        "Placeholder",
    ]
)
"""Operations with a state that reading the variables again sets anew, or with none in fact."""


class SavedGraph:
    """A graph with its signatures, and the sessions on it. Safe to use from many threads.

    Importing a graph and preparing its first run cost a hundred times what reading the variables does, and versions
    that a checkpoint push makes differ in nothing but their variables. So they share the graph, and the session of a
    version that has been unloaded is kept, with all that TensorFlow prepared in it, for the next one: it reads that
    version's variables. One such session is kept, which is as much memory as a version needs anyway while it loads.
    """

    def __init__(self, content: bytes, config: Any = None) -> None:
        """Imports the graph for serving.

        Args:
            content: Of saved_model.pb.
            config: tf.compat.v1.ConfigProto of the sessions.

        Raises:
            OSError: The content isn't a SavedModel.
            RuntimeError, ValueError: It holds no graph for serving, or one that can't be imported.
        """
        try:
            saved_model = saved_model_pb2.SavedModel.FromString(content)
        except DecodeError as error:
            raise OSError(f"saved_model.pb can't be parsed: {error}") from error
        tags = [set(graph.meta_info_def.tags) for graph in saved_model.meta_graphs]
        if {tf.saved_model.SERVING} not in tags:
            raise RuntimeError(
                f"the SavedModel has no graph with the tag {tf.saved_model.SERVING!r} alone, only {tags}"
            )
        meta_graph = saved_model.meta_graphs[tags.index({tf.saved_model.SERVING})]
        self._config = config
        self._graph = tf.Graph()
        with self._graph.as_default():
            tf.compat.v1.import_graph_def(
                meta_graph.graph_def, name="", producer_op_list=meta_graph.meta_info_def.stripped_op_list
            )
        self._graph.finalize()
        self._saver = meta_graph.saver_def
        self.signatures: dict[str, Any] = dict(meta_graph.signature_def)
        """Name -> SignatureDef."""
        self._assets = {info.tensor_info.name: info.filename for info in meta_graph.asset_file_def}
        self._init_op = _init_op(meta_graph)
        self.reusable = not self._assets and _holds_only_variables(meta_graph.graph_def)
        """Whether a session can go on to another version: all of its state is in variables."""
        self._lock = threading.Lock()
        self._spare: GraphSession | None = None
        self._closed = False

    @property
    def has_spare(self) -> bool:
        """Whether the next `open` needs no new session."""
        with self._lock:
            return self._spare is not None

    def open(self, path: Path) -> GraphSession:
        """A session with the variables and assets of the version in the folder `path`.

        Raises:
            OSError, tf.errors.OpError, ValueError: They can't be read.
        """
        with self._lock:
            session, self._spare = self._spare, None
        if session is None:
            session = GraphSession(self._graph, self.signatures, self._config)
        try:
            if self._saver.restore_op_name:
                session.run_operation(
                    self._saver.restore_op_name, {self._saver.filename_tensor_name: str(path / "variables/variables")}
                )
            if self._init_op is not None:
                assets = {name: str(path / "assets" / file) for name, file in self._assets.items()}
                session.run_operation(self._init_op, assets)
        except BaseException:
            session.close()
            raise
        return session

    def give_back(self, session: GraphSession) -> None:
        """Takes a session that nobody uses any more, and keeps or closes it."""
        with self._lock:
            if self.reusable and self._spare is None and not self._closed:
                self._spare = session
                return
        session.close()

    def close(self) -> None:
        """Frees the spare session; those that are given back later are closed."""
        with self._lock:
            self._closed, session, self._spare = True, self._spare, None
        if session is not None:
            session.close()


def _init_op(meta_graph: Any) -> str | None:
    if _INIT_SIGNATURE in meta_graph.signature_def:
        return meta_graph.signature_def[_INIT_SIGNATURE].outputs[_INIT_SIGNATURE].name
    for name in _INIT_COLLECTIONS:
        if nodes := meta_graph.collection_def[name].node_list.value if name in meta_graph.collection_def else ():
            return nodes[0]
    return None


def _holds_only_variables(graph_def: Any) -> bool:
    functions = graph_def.library.function
    operations = {node.op for node in graph_def.node}.union(*({node.op for node in f.node_def} for f in functions))
    operations -= {function.signature.name for function in functions}
    return all(name in _HARMLESS or not _is_stateful(name) for name in operations)


def _is_stateful(name: str) -> bool:
    from tensorflow.python.framework import op_def_registry

    definition = op_def_registry.get(name)
    return definition is None or definition.is_stateful
