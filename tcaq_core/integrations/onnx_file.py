"""What the exporter traced as a file: our names in it, weights packed, nothing else."""

from typing import Literal

import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tcaq_core.integrations.onnx_layers import WEIGHT_CODES
from tcaq_core.runtime.packing import pack

WeightType = Literal["uint4", "int8"]
"""uint4: two codes a byte wherever the codes of a channel span no more than 16 values,
turned into int8 by constants that a runtime folds; int8: one code a byte."""


def finish(
    model: onnx.ModelProto, *, weights: WeightType, metadata: dict[str, str]
) -> None:
    """Make a traced model fit to be written, in place."""
    for node in model.graph.node:
        # Where each operator stood in our sources is of no use to its readers.
        del node.metadata_props[:]
        node.doc_string = ""
    # Shapes between operators can be inferred again.
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    helper.set_model_props(model, metadata)
    model.producer_name, model.producer_version = "tcaq", metadata["tcaq.version"]
    if weights == "uint4":
        _pack_weights(model.graph)


def weight_initializers(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    """Return the integer weights, by name."""
    return {
        tensor.name: tensor
        for tensor in graph.initializer
        if tensor.name.endswith(f".{WEIGHT_CODES}")
    }


def _pack_weights(graph: onnx.GraphProto) -> None:
    stored = weight_initializers(graph)
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            axis = next(a.i for a in node.attribute if a.name == "axis")
            prefix = f"unpack.{len(nodes)}"
            tensor = stored[node.input[0]]
            widening = _pack_weight(graph, tensor, axis, prefix=prefix)
            if widening:
                nodes += widening
                node.input[0] = widening[-1].output[0]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _pack_weight(
    graph: onnx.GraphProto, tensor: TensorProto, axis: int, *, prefix: str
) -> list[NodeProto]:
    """Store one weight as uint4, if it fits; return what makes int8 of it again."""
    codes = torch.from_numpy(numpy_helper.to_array(tensor).astype("int32"))
    others = [dim for dim in range(codes.ndim) if dim != axis]
    low = codes.amin(others, keepdim=True)
    raised = codes - low
    if int(raised.max()) > 15:
        return []
    packed = pack(raised.to(torch.uint8), num_bits=4).numpy().tobytes()
    name = tensor.name
    tensor.CopyFrom(
        helper.make_tensor(name, TensorProto.UINT4, codes.shape, packed, raw=True)
    )
    # Short: for a small layer, names would eat up what packing saves.
    lowest, wide, signed, narrow = (f"{prefix}.{step}" for step in "abcd")
    graph.initializer.append(numpy_helper.from_array(low.numpy(), lowest))
    return [
        helper.make_node("Cast", [name], [wide], to=TensorProto.INT32),
        helper.make_node("Add", [wide, lowest], [signed]),
        helper.make_node("Cast", [signed], [narrow], to=TensorProto.INT8),
    ]
