"""The two kinds of SavedModels, of TensorFlow 1 (hub modules among them) and 2, opened alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import graph_pb2, variable_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

FILE = "saved_model.pb"
#: Names that are meant where none is said, in this order.
SIGNATURES = ("default", "serving_default")
OUTPUTS = ("default",)
#: Operations of TensorFlow 1 that are variables, and those that change one, by what they do to it.
VARIABLES = ("VarHandleOp", "VariableV2", "Variable")
CHANGES = {
    "Assign": "assign",
    "AssignAdd": "assign_add",
    "AssignSub": "assign_sub",
    "AssignVariableOp": "assign",
    "AssignAddVariableOp": "assign_add",
    "AssignSubVariableOp": "assign_sub",
}


class Net(Protocol):
    """What either kind of SavedModel offers.

    Attributes:
        variables: name, such as `conv1/kernel` -> variable, or the array that it begins with.
        trainable: names of those that gradients may move.
    """

    variables: dict[str, Any]
    trainable: set[str]

    def bind(self, variables: Mapping[str, Any]) -> None:
        """Compute with these Keras variables from now on, named as in `variables`."""

    def __call__(self, images: Any, training: bool) -> Any:
        """Return features of float32 pictures (B, H, W, 3)."""


def open_saved_model(folder: Path, signature: str | None = None, output: str | None = None) -> Net:
    """Open a SavedModel of either kind.

    Args:
        folder: holds `saved_model.pb`.
        signature: which signature to run; default: what it can be called as (TensorFlow 2), else
            `default`, else `serving_default`, else its only one.
        output: which of several outputs; default: `default`, or the only one.

    Raises:
        ValueError: it cannot be read, or has no such signature or output.
    """
    proto = saved_model_pb2.SavedModel()
    try:
        proto.ParseFromString((folder / FILE).read_bytes())
    except (OSError, DecodeError):
        raise ValueError(f"no {FILE} of a SavedModel in {folder}") from None
    if len(proto.meta_graphs) == 1 and proto.meta_graphs[0].HasField("object_graph_def"):
        return SavedModelV2(folder, signature, output)
    return SavedModelV1(proto, folder, signature, output)


class SavedModelV2:
    """A SavedModel of TensorFlow 2: reusable, which can be called, or with signatures alone.

    Args:
        folder: see :func:`open_saved_model`.
        signature: the same.
        output: the same.

    Raises:
        ValueError: as :func:`open_saved_model`.
    """

    def __init__(self, folder: Path, signature: str | None, output: str | None) -> None:
        self._output = output
        try:
            self._loaded = tf.saved_model.load(str(folder))
        except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
            raise ValueError(
                f"the SavedModel in {folder} cannot be read: {_first(error)}"
            ) from None
        self._run: Any = self._loaded
        self._input: str | None = None
        if signature is not None or not callable(self._loaded):
            signatures = self._loaded.signatures
            self._run = signatures[_choose("signature", signature, signatures, SIGNATURES)]
            self._input = _only_input(self._run.structured_input_signature[1])
        found = {id(v): v for v in getattr(self._loaded, "variables", ())}
        traced = self._run.__call__ if self._input is None else None
        for function in getattr(traced, "concrete_functions", None) or [self._run]:
            found |= {id(v): v for v in getattr(function, "variables", ())}
        learn = getattr(self._loaded, "trainable_variables", None)
        moved = {id(v) for v in (found.values() if learn is None else learn) if v.trainable}
        self.variables: dict[str, Any] = {}
        self.trainable: set[str] = set()
        for key, variable in found.items():
            name = _new_name(variable.name.split(":")[0], self.variables)
            self.variables[name] = variable
            if key in moved:
                self.trainable.add(name)

    def bind(self, variables: Mapping[str, Any]) -> None:
        # The other way round: its functions hold on to the variables that they were loaded with.
        for name, variable in variables.items():
            own = self.variables[name]
            own.assign(variable.value)
            variable._value = own

    def __call__(self, images: Any, training: bool) -> Any:
        if self._input is not None:
            result = self._run(**{self._input: images})
        else:
            result = self._called(images, training)
        if isinstance(result, Mapping):
            return result[_choose("output", self._output, result, OUTPUTS)]
        return result

    def _called(self, images: Any, training: bool) -> Any:
        try:
            return self._run(images, training=training)
        except (TypeError, ValueError):
            # Not all that is saved knows `training`; where the images are at fault, this says so.
            return self._run(images)


class SavedModelV1:
    """A SavedModel of TensorFlow 1, such as a module of TF-Hub made for `hub.Module`.

    Its graph for training is the one with the tag `train`, if there is one: batch normalisation
    then takes the statistics of the batch, and changes the moving ones by what the graph keeps
    among its `update_ops`. Both graphs share the variables.

    Args:
        proto: content of the file `saved_model.pb`.
        folder: see :func:`open_saved_model`.
        signature: the same.
        output: the same.

    Raises:
        ValueError: as :func:`open_saved_model`, or a variable has no value.
    """

    def __init__(
        self,
        proto: saved_model_pb2.SavedModel,
        folder: Path,
        signature: str | None,
        output: str | None,
    ) -> None:
        graphs = {frozenset(meta.meta_info_def.tags): meta for meta in proto.meta_graphs}
        plain = next((g for g in (frozenset(), frozenset({"serve"})) if g in graphs), None)
        still = graphs[plain] if plain is not None else next(iter(graphs.values()), None)
        if still is None:
            raise ValueError(f"the SavedModel in {folder} holds no graph")
        moving = next((meta for tags, meta in graphs.items() if "train" in tags), still)
        self._still = _Graph(still, signature, output)
        self._moving = self._still if moving is still else _Graph(moving, signature, output)
        names = dict.fromkeys([*self._still.variables, *self._moving.variables])
        self.trainable = (self._still.trainable | self._moving.trainable) & set(names)
        try:
            reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
            self.variables = {name: reader.get_tensor(name) for name in names}
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise ValueError(
                f"the variables of the SavedModel in {folder} cannot be read: {_first(error)}"
            ) from None

    def bind(self, variables: Mapping[str, Any]) -> None:
        self._run = {
            training: tf.function(graph.function(variables, training), autograph=False)
            for training, graph in ((False, self._still), (True, self._moving))
        }

    def __call__(self, images: Any, training: bool) -> Any:
        return self._run[training](images)


class _Graph:
    """One graph of a SavedModel of TensorFlow 1, from its images to one output."""

    def __init__(
        self, meta: meta_graph_pb2.MetaGraphDef, signature: str | None, output: str | None
    ) -> None:
        signatures = meta.signature_def
        chosen = signatures[_choose("signature", signature, signatures, SIGNATURES)]
        self._input = chosen.inputs[_only_input(chosen.inputs)].name
        self._output = chosen.outputs[_choose("output", output, chosen.outputs, OUTPUTS)].name
        self._graph = meta.graph_def
        self._nodes = {node.name: node for node in meta.graph_def.node}
        # Of several signatures each has its updates, which need the images of that signature.
        self._updates = [
            update
            for update in self._changes(meta.collection_def["update_ops"].node_list.value)
            if not self._missing(update[2])
        ]
        missing = self._missing(self._output)
        if missing:
            raise ValueError(f"the SavedModel does not do with images alone, but needs {missing}")
        needed = self._needed([self._output, *(value for *_, value in self._updates)])
        found = {n.name: None for n in needed if n.op in VARIABLES}
        found |= {_node(n.input[0]): None for n in needed if n.op == "ReadVariableOp"}
        #: Names of the variables that output and updates are made of.
        self.variables = list(found | {name: None for name, *_ in self._updates})
        trained = meta.collection_def["trainable_variables"].bytes_list.value
        self.trainable = {
            _node(variable_pb2.VariableDef.FromString(content).variable_name) for content in trained
        }

    def function(self, variables: Mapping[str, Any], training: bool) -> Any:
        """Return what computes the output for images with these variables.

        Their values are fed where the graph reads them, so that a tape sees them used, and what
        the graph would change is changed outside of it, as Keras does under every strategy.
        """
        updates = self._updates if training else []
        wanted = [self._output, *(value for *_, value in updates)]
        graph = graph_pb2.GraphDef(library=self._graph.library, versions=self._graph.versions)
        reads: dict[str, str] = {}
        for node in self._needed(wanted):
            if node.op == "VarHandleOp":
                continue
            copy = graph.node.add(name=node.name)
            if node.op in (*VARIABLES, "ReadVariableOp"):
                reads[f"{node.name}:0"] = _node(node.input[0]) if node.input else node.name
                copy.op = "Placeholder"
                copy.attr["dtype"].CopyFrom(node.attr["dtype"])
                continue
            copy.op = node.op
            copy.input.extend(name for name in node.input if self._follows(name))
            for attribute, value in node.attr.items():
                if attribute not in ("_class", "_output_shapes"):
                    copy.attr[attribute].CopyFrom(value)

        def run(images: Any) -> Any:
            values = {name: tf.convert_to_tensor(variables[name]) for name in reads.values()}
            found = tf.graph_util.import_graph_def(
                graph,
                input_map={self._input: images, **{t: values[name] for t, name in reads.items()}},
                return_elements=wanted,
                name="",
            )
            for (name, change, _), value in zip(updates, found[1:], strict=True):
                getattr(variables[name], change)(value)
            return found[0]

        return run

    def _needed(self, tensors: Iterable[str]) -> list[Any]:
        """Return the nodes that tensors are computed from, in the order of the graph."""
        found: set[str] = set()
        waiting = [_node(tensor) for tensor in tensors]
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                node = self._nodes[name]
                if node.op != "ReadVariableOp":
                    waiting += [_node(n) for n in node.input if self._follows(n)]
        return [node for name, node in self._nodes.items() if name in found]

    def _follows(self, name: str) -> bool:
        """Whether an input matters: data does, waiting for changes and checks does not."""
        if not name.startswith("^"):
            return True
        return self._nodes[_node(name)].op not in (
            *VARIABLES,
            *CHANGES,
            "ReadVariableOp",
            "NoOp",
            "Assert",
        )

    def _missing(self, tensor: str) -> str:
        """Return names of what a tensor needs to be given, besides the images."""
        nodes = self._needed([tensor])
        return ", ".join(
            n.name for n in nodes if n.op == "Placeholder" and n.name != _node(self._input)
        )

    def _changes(self, updates: Iterable[str]) -> list[tuple[str, str, str]]:
        """Return which variables the update operations change: name, how, and by what tensor."""
        found: dict[str, tuple[str, str, str]] = {}
        seen: set[str] = set()
        waiting = [_node(update) for update in updates]
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            node = self._nodes[name]
            if node.op in CHANGES:
                tensor = node.input[1]
                tensor = tensor if ":" in tensor else f"{tensor}:0"
                found[name] = (_node(node.input[0]), CHANGES[node.op], tensor)
            waiting += [_node(input_name) for input_name in node.input]
        return list(found.values())


def _node(tensor: str) -> str:
    """Return the node of a tensor: `conv` of `conv:0` and `^conv`."""
    return tensor.removeprefix("^").split(":")[0]


def _only_input(inputs: Iterable[str]) -> str:
    names = list(inputs)
    if len(names) != 1:
        raise ValueError(f"the signature takes {', '.join(names) or 'nothing'}, not images alone")
    return names[0]


def _choose(what: str, name: str | None, known: Iterable[str], usual: Iterable[str]) -> str:
    """Return the name that is asked for, or else one of the usual ones, or the only one."""
    names = [n for n in known if not n.startswith("__")]
    for candidate in (name,) if name is not None else usual:
        if candidate in names:
            return candidate
    if name is None and len(names) == 1:
        return names[0]
    raise ValueError(
        f"the SavedModel has no {what} {name!r}, but {', '.join(names) or 'none'}"
        if name is not None
        else f"the SavedModel has several, choose its {what}: {', '.join(names) or 'none'}"
    )


def _new_name(name: str, taken: Mapping[str, Any]) -> str:
    """Return `name`, with a number if it is taken: those of TensorFlow 2 need not differ."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found


def _first(error: Exception) -> str:
    """Return the first line of an error."""
    return next(iter(str(error).splitlines()), type(error).__name__)
