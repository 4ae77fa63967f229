import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tcaq_core.integrations.onnx_file import finish, weight_initializers

NAME = "unet.layer.weight_codes"
METADATA = {"tcaq.version": "1"}


def one_weight(codes: torch.Tensor, *, axis: int) -> onnx.ModelProto:
    """Return a model that gives back a weight: int8 codes times 0.5, 1, 1.5, ..."""
    scale = torch.arange(1, codes.shape[axis] + 1) / 2
    node = helper.make_node("DequantizeLinear", [NAME, "scale"], ["w"], axis=axis)
    graph = helper.make_graph(
        [node],
        "one",
        inputs=[],
        outputs=[helper.make_tensor_value_info("w", TensorProto.FLOAT, codes.shape)],
        initializer=[
            numpy_helper.from_array(codes.to(torch.int8).numpy(), NAME),
            numpy_helper.from_array(scale.numpy(), "scale"),
        ],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )


def value_of(model: onnx.ModelProto) -> torch.Tensor:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return torch.from_numpy(session.run(["w"], {})[0])


@pytest.mark.parametrize(("shape", "axis"), [((6, 5, 3, 3), 0), ((7, 3), 1)])
def test_a_packed_weight_takes_half_the_bytes_and_is_the_same_numbers(
    shape: tuple[int, ...], axis: int, generator: torch.Generator
) -> None:
    codes = torch.randint(0, 16, shape, generator=generator)
    # Every channel has a zero point of its own.
    offset = torch.arange(shape[axis]).view(
        [-1 if d == axis else 1 for d in range(len(shape))]
    )
    plain, packed = (one_weight(codes - offset, axis=axis) for _ in range(2))
    finish(plain, weights="int8", metadata=METADATA)
    finish(packed, weights="uint4", metadata=METADATA)
    assert torch.equal(value_of(packed), value_of(plain))
    assert torch.equal(value_of(plain).isfinite(), torch.ones(shape).bool())
    stored = weight_initializers(packed.graph)[NAME]
    assert stored.data_type == TensorProto.UINT4
    assert len(stored.raw_data) == (codes.numel() + 1) // 2


def test_codes_that_need_more_than_four_bits_stay_int8() -> None:
    codes = torch.tensor([[0, 15], [0, 16]])
    model = one_weight(codes, axis=0)
    finish(model, weights="uint4", metadata=METADATA)
    assert weight_initializers(model.graph)[NAME].data_type == TensorProto.INT8
    assert value_of(model).tolist() == [[0.0, 7.5], [0.0, 16.0]]


def test_a_finished_model_names_its_maker_and_no_source_line() -> None:
    model = one_weight(torch.zeros(2, 2), axis=0)
    model.graph.node[0].doc_string = "File somewhere.py"
    model.graph.node[0].metadata_props.add(key="stack", value="File somewhere.py")
    finish(model, weights="int8", metadata=METADATA)
    assert b"somewhere.py" not in model.SerializeToString()
    assert (model.producer_name, model.producer_version) == ("tcaq", "1")
