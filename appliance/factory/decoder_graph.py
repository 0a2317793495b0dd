"""A decoder as an ONNX graph: nodes, weights in one external file, and the inputs that continuous batching needs.

Inputs: input_ids int64 [batch, length]; seqlens_k int32 [batch], each row's tokens in all minus one; total_sequence_length
int32, the longest of them; output_rows int64 [rows], which of the batch * length positions give logits; past_key_values.I.key
and .value float32 [batch, kv heads, capacity, head]. Outputs: logits float32 [rows, vocabulary]; present.I.key and .value,
meant to be bound to the very buffers of the past (GroupQueryAttention writes new keys behind the old ones).
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper

from appliance.factory.gguf_weights import Blocks

DATA = "model.onnx.data"
ALIGNMENT = 4096
"""A tensor on a page of its own can be mapped into memory."""
MICROSOFT = "com.microsoft"
OPSET, IR_VERSION = 21, 10
SMALL_BYTES = 1024
"""Smaller tensors stay in the graph: ONNX Runtime looks at their values when it plans."""


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """Sizes of a decoder, in numbers. accuracy: MatMulNBits' accuracy_level, 4: 8-bit activations, 1: float32."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    norm_eps: float
    accuracy: int


class Graph:
    """Collects nodes and weights. Values are named; a method that adds a node returns the name of its output."""

    def __init__(self, shape: DecoderShape, data: BinaryIO) -> None:
        self.shape = shape
        self._data = data
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, TensorProto] = {}

    def node(self, op: str, inputs: list[str], name: str, domain: str = "", outputs: list[str] | None = None, **attributes: Any) -> str:
        """Add a node called `name`; its output has the same name where `outputs` does not say others."""
        self._nodes.append(helper.make_node(op, inputs, outputs or [name], name, domain=domain, **attributes))
        return name

    def weight(self, name: str, values: np.ndarray) -> str:
        """Add a tensor; a name that is there already is the same tensor."""
        if name not in self._weights:
            kind = helper.np_dtype_to_tensor_dtype(values.dtype)
            tensor = TensorProto(name=name, data_type=kind, dims=values.shape)
            if values.nbytes < SMALL_BYTES:
                tensor.raw_data = values.tobytes()
            else:
                self._data.write(b"\0" * (-self._data.tell() % ALIGNMENT))
                self._point(tensor, self._data.tell(), values.nbytes)
                values.tofile(self._data)
            self._weights[name] = tensor
        return name

    def alias(self, name: str, of: str, dims: tuple[int, ...]) -> str:
        """Another tensor with the bytes of one in the external file, in another shape."""
        original = self._weights[of]
        if not original.external_data:
            same = TensorProto(name=name, data_type=original.data_type, dims=dims, raw_data=original.raw_data)
        else:
            same = TensorProto(name=name, data_type=original.data_type, dims=dims, data_location=TensorProto.EXTERNAL)
            same.external_data.extend(original.external_data)
        self._weights[name] = same
        return name

    @staticmethod
    def _point(tensor: TensorProto, offset: int, length: int) -> None:
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", DATA), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))

    # -- the parts of a decoder --------------------------------------------------------------------------------

    def embedding(self, matrix: Blocks | np.ndarray) -> str:
        """input_ids -> [batch, length, hidden]."""
        if isinstance(matrix, np.ndarray):
            return self.node("Gather", [self.weight("embedding", matrix), "input_ids"], "embedded")
        packed = self.weight("embedding.packed", matrix.packed.reshape(len(matrix.packed), -1))
        scales = self.weight("embedding.scales", matrix.scales)
        return self.node(
            "GatherBlockQuantized", [packed, "input_ids", scales], "embedded", MICROSOFT,
            bits=matrix.bits, block_size=matrix.block, quantize_axis=1, gather_axis=0,
        )  # fmt: skip

    def output(self, states: str, matrix: Blocks | np.ndarray | None) -> None:
        """[batch, length, hidden] -> logits of the rows asked for. matrix None: the embedding once more."""
        flat = self.node("Reshape", [states, self.weight("flat", np.array([-1, self.shape.hidden], np.int64))], "states.flat")
        rows = self.node("Gather", [flat, "output_rows"], "states.rows")
        if matrix is not None:
            self.product(rows, "logits", matrix)
        elif "embedding" in self._weights:
            self.node("MatMul", [rows, self.node("Transpose", ["embedding"], "embedding.turned", perm=[1, 0])], "logits")
        else:
            packed, scales = self._weights["embedding.packed"], self._weights["embedding.scales"]
            (rows_, bytes_), blocks = packed.dims, scales.dims[1]
            block = self.shape.hidden // blocks
            self.alias("logits.packed", "embedding.packed", (rows_, blocks, bytes_ // blocks))
            self._nbits(rows, "logits", rows_, self.shape.hidden, bytes_ * 8 // self.shape.hidden, block, ["logits.packed", "embedding.scales"])

    def product(self, x: str, name: str, matrix: Blocks | np.ndarray, bias: np.ndarray | None = None) -> str:
        """x times the transposed matrix [out, in], plus the bias."""
        if isinstance(matrix, np.ndarray):
            product = self.node("MatMul", [x, self.weight(f"{name}.weight", np.ascontiguousarray(matrix.T))], name if bias is None else f"{name}.product")
            return product if bias is None else self.node("Add", [product, self.weight(f"{name}.bias", bias)], name)
        rows, blocks, _ = matrix.packed.shape
        inputs = [self.weight(f"{name}.packed", matrix.packed), self.weight(f"{name}.scales", matrix.scales)]
        if bias is not None:
            inputs += ["", "", self.weight(f"{name}.bias", bias)]
        return self._nbits(x, name, rows, blocks * matrix.block, matrix.bits, matrix.block, inputs)

    def _nbits(self, x: str, name: str, rows: int, columns: int, bits: int, block: int, weights: list[str]) -> str:
        return self.node(
            "MatMulNBits", [x, *weights], name, MICROSOFT,
            N=rows, K=columns, bits=bits, block_size=block, accuracy_level=self.shape.accuracy,
        )  # fmt: skip

    def norm(self, x: str, name: str, weight: np.ndarray) -> str:
        """Root mean square normalisation."""
        scale = self.weight(f"{name}.weight", weight)
        return self.node("SimplifiedLayerNormalization", [x, scale], name, epsilon=self.shape.norm_eps, axis=-1, stash_type=1)

    def add_norm(self, x: str, more: str, name: str, weight: np.ndarray) -> tuple[str, str]:
        """x + more normalised, and x + more itself."""
        scale, total = self.weight(f"{name}.weight", weight), f"{name}.sum"
        self.node(
            "SkipSimplifiedLayerNormalization", [x, more, scale], name, MICROSOFT,
            outputs=[name, "", "", total], epsilon=self.shape.norm_eps,
        )  # fmt: skip
        return name, total

    def head_norm(self, x: str, name: str, weight: np.ndarray) -> str:
        """Root mean square normalisation of each head by itself."""
        size = self.shape.head_size
        apart = self.node("Reshape", [x, self.weight("heads.apart", np.array([0, 0, -1, size], np.int64))], f"{name}.heads")
        normed = self.norm(apart, f"{name}.normed", weight)
        return self.node("Reshape", [normed, self.weight("heads.together", np.array([0, 0, -1], np.int64))], name)

    def attention(self, number: int, qkv: list[str], rotation: list[str]) -> str:
        """Rotary attention over a layer's keys and values. qkv: one packed value or three."""
        shape, past = self.shape, f"past_key_values.{number}."
        name = f"layer.{number}.attention"
        return self.node(
            "GroupQueryAttention",
            [*qkv, *[""] * (3 - len(qkv)), f"{past}key", f"{past}value", "seqlens_k", "total_sequence_length", *rotation],
            name, MICROSOFT, outputs=[name, f"present.{number}.key", f"present.{number}.value"],
            num_heads=shape.heads, kv_num_heads=shape.kv_heads, do_rotary=1, rotary_interleaved=0,
        )  # fmt: skip

    def save(self, path: Path, producer: str) -> None:
        """Write the graph; the weights stand in the external file already."""
        shape = self.shape
        past = ["batch", shape.kv_heads, "capacity", shape.head_size]

        def value(name: str, kind: int, dims: list[Any]) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, kind, dims)

        caches = [f"{number}.{part}" for number in range(shape.layers) for part in ("key", "value")]
        inputs = [
            value("input_ids", TensorProto.INT64, ["batch", "length"]),
            value("seqlens_k", TensorProto.INT32, ["batch"]),
            value("total_sequence_length", TensorProto.INT32, []),
            value("output_rows", TensorProto.INT64, ["rows"]),
            *(value(f"past_key_values.{cache}", TensorProto.FLOAT, past) for cache in caches),
        ]
        outputs = [value("logits", TensorProto.FLOAT, ["rows", shape.vocabulary])]
        outputs += [value(f"present.{cache}", TensorProto.FLOAT, past) for cache in caches]
        graph = helper.make_graph(self._nodes, "decoder", inputs, outputs, list(self._weights.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name=producer)
        path.write_bytes(model.SerializeToString())
