"""ONNX models of float32 to smaller ones: 8 bits with onnxruntime's dynamic quantization, 8 and 4 bits in blocks.

int8: weights one scale a column, activations one scale a tensor, chosen at run time, so what else is in a batch moves
the result a little. Weights use 7 of their 8 bits: on x86 CPUs without VNNI two products of 8-bit weights overflow the
16 bits in which they are added (onnxruntime's documentation of quantization, "reduce_range"). Embeddings: 8 bits,
one scale a table.
int8-block, int4-block: the operator MatMulNBits (onnxruntime, docs/ContribOperators.md): one scale for each `block`
weights of a column, activations 8 bits by row and block (accuracy_level 4). Embeddings: 8 bits, or 4, in blocks of a row.
"""

from __future__ import annotations

import difflib
import fnmatch
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from appliance.errors import InvalidRequest, ModelFileError, ModelFileMissing
from appliance.factory.convert_onnx import MODEL, check_opens, whole_folder

KINDS = {"int8": 8, "int8-block": 8, "int4-block": 4}
"""Kinds of quantization and the bits of a weight."""
BLOCKS = {"int8-block": 128, "int4-block": 32}
"""Weights of one scale where none are asked for: four bits need small blocks, eight bits are faster in large ones."""
INLINE_BYTES = 1 << 30
"""Larger models keep their weights in a file of their own; protobuf ends at 2 GB."""
QUANTIZED = {"MatMulInteger", "DynamicQuantizeLinear", "MatMulNBits", "QLinearMatMul", "DequantizeLinear", "GatherBlockQuantized"}


def quantize(source: Path, target: Path, kind: str, *, keep: Sequence[str] = (), block: int | None = None, table_bits: int = 8) -> None:
    """Write the model in the folder `source` to `target` with weights of `kind` (a key of KINDS); other files are copied.

    keep: patterns (fnmatch) of names of nodes or weights that stay float32. block: 16 to 256, a power of two, for the
    kinds in blocks. table_bits: 8 or 4, of embeddings in the kinds in blocks. The target appears whole or not at all. Raises InvalidRequest, ModelFileMissing, ModelFileError or
    StorageFailed.
    """
    if kind not in KINDS:
        raise InvalidRequest(f"There is no quantization {kind!r}.", param="kind", remedy=f"Choose one of {', '.join(KINDS)}.")
    if block is not None and (kind not in BLOCKS or block not in (16, 32, 64, 128, 256)):
        raise InvalidRequest(f"{kind} in blocks of {block} does not exist.", param="block", remedy="Choose 16, 32, 64, 128 or 256 for a kind in blocks.")
    if not (source / MODEL).is_file():
        raise ModelFileMissing(f"There is no {source / MODEL}.", remedy="Give a folder that convert has made.")
    size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    with whole_folder(target, size) as part:
        shutil.copytree(source, part, dirs_exist_ok=True, ignore=shutil.ignore_patterns(f"{MODEL}*"))
        model = _load(source / MODEL)
        kept = _kept(model, keep)
        if kind == "int8":
            _dynamic(model, part / MODEL, kept)
        else:
            _in_blocks(model, kept, KINDS[kind], block or BLOCKS[kind], table_bits)
            _save(model, part / MODEL)
        check_opens(part / MODEL)


def _load(path: Path) -> Any:
    """The model, its Gemm nodes written as MatMul and Add, which is what both ways can quantize."""
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel

    try:
        wrapped = ONNXModel(onnx.load(str(path)))
    except Exception as error:  # protobuf's own class of errors is not public
        raise ModelFileError(f"{path} cannot be read as an ONNX model: {str(error).splitlines()[0][:200]}") from error
    found = {node.op_type for node in wrapped.model.graph.node}
    if found & QUANTIZED:
        raise InvalidRequest(f"{path} is quantized already ({', '.join(sorted(found & QUANTIZED))}).", param="source", remedy="Begin from float32.")
    wrapped.replace_gemm_with_matmul()
    wrapped.topological_sort()
    if not any(True for _ in _weights(wrapped.model)):
        raise ModelFileError(f"{path} has no float32 weights that can be quantized.", remedy="Begin from a model that convert has made.")
    return wrapped.model


def _weights(model: Any) -> Any:
    """(node, the float32 tensor [rows, columns] it multiplies by or looks up) of the main graph."""
    from onnx import TensorProto

    tables = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) == 2}
    for node in model.graph.node:
        at = {"MatMul": 1, "Gather": 0}.get(node.op_type)
        if at is not None and node.input[at] in tables:
            yield node, tables[node.input[at]]


def _kept(model: Any, patterns: Sequence[str]) -> set[str]:
    """Names of the nodes that one of the patterns names, by their own name or their weight's."""
    names = {node.name: tensor.name for node, tensor in _weights(model)}
    kept: set[str] = set()
    for pattern in patterns:
        hits = {node for node, tensor in names.items() if fnmatch.fnmatchcase(node, pattern) or fnmatch.fnmatchcase(tensor, pattern)}
        if not hits:
            close = difflib.get_close_matches(pattern.strip("*"), [*names, *names.values()], n=1, cutoff=0.5)
            raise InvalidRequest(
                f"Nothing that could be quantized is called {pattern!r}.",
                param="keep",
                remedy=f"Did you mean {close[0]}?" if close else "Look at the names of the model's nodes.",
            )
        kept |= hits
    return kept


def _dynamic(model: Any, path: Path, kept: set[str]) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    add_pre_process_metadata(model)  # says that constants are folded; the exporter has done that
    before = tempfile.tempdir
    tempfile.tempdir = str(path.parent)  # onnxruntime writes copies of the model to the temporary folder, often a small one
    try:
        quantize_dynamic(
            model, str(path), op_types_to_quantize=["MatMul", "Gather"], per_channel=True, reduce_range=True,
            weight_type=QuantType.QInt8, nodes_to_exclude=sorted(kept), use_external_data_format=model.ByteSize() > INLINE_BYTES,
        )  # fmt: skip
    finally:
        tempfile.tempdir = before


def _in_blocks(model: Any, kept: set[str], bits: int, block: int, table_bits: int) -> None:
    from onnx import helper, numpy_helper

    graph, made, nodes = model.graph, {}, []
    found = {node.name: tensor for node, tensor in _weights(model) if node.name not in kept}
    for node in graph.node:
        tensor = found.get(node.name)
        if tensor is None:
            nodes.append(node)
            continue
        lookup = node.op_type == "Gather"
        width = tensor.dims[1] if lookup else tensor.dims[0]
        if lookup and (width % block or any(a.name == "axis" and a.i for a in node.attribute)):
            nodes.append(node)  # GatherBlockQuantized looks up whole rows of whole blocks
            continue
        key = (tensor.name, lookup)
        if key not in made:
            values = numpy_helper.to_array(tensor)
            packed, scales = _rows(values, block, table_bits) if lookup else _columns(values, bits, block)
            made[key] = [f"{tensor.name}_{'rows' if lookup else 'columns'}_{part}" for part in ("q", "scales")]
            graph.initializer.extend(numpy_helper.from_array(a, n) for a, n in zip((packed, scales), made[key], strict=True))
        packed_name, scales_name = made[key]
        if lookup:
            inputs, kind = [packed_name, node.input[1], scales_name], "GatherBlockQuantized"
            how = {"gather_axis": 0, "quantize_axis": 1, "block_size": block, "bits": table_bits}
        else:
            inputs, kind = [node.input[0], packed_name, scales_name], "MatMulNBits"
            how = {"K": tensor.dims[0], "N": tensor.dims[1], "bits": bits, "block_size": block, "accuracy_level": 4}
        nodes.append(helper.make_node(kind, inputs, list(node.output), name=node.name, domain="com.microsoft", **how))
    used = {name for node in nodes for name in node.input} | {output.name for output in graph.output}
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
    if not any(opset.domain == "com.microsoft" for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _columns(weight: np.ndarray, bits: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """MatMulNBits' layout of a weight [K, N]: bytes [N, blocks, block * bits / 8] and scales [N, blocks]."""
    from onnxruntime.capi import _pybind_state as kernels

    rows, columns = weight.shape
    blocks = -(-rows // block)
    padded = np.ascontiguousarray(np.pad(weight, ((0, blocks * block - rows), (0, 0))))
    packed = np.zeros((columns, blocks, block * bits // 8), np.uint8)
    scales = np.zeros((columns, blocks), np.float32)
    zeros = np.zeros((columns, -(-blocks * bits // 8)), np.uint8)  # asked for, but not written: the weights are symmetric
    pack = kernels.quantize_matmul_8bits if bits == 8 else kernels.quantize_matmul_4bits
    pack(packed, padded, scales, zeros, block, columns, rows, True)
    return packed, scales


def _rows(table: np.ndarray, block: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """GatherBlockQuantized's layout of a table [rows, width]: numbers around 2^(bits-1), of 4 bits two in a byte, the first one
    in its lower half; scales [rows, blocks]."""
    cut = table.reshape(len(table), -1, block)
    middle = 1 << (bits - 1)
    scales = np.maximum(np.abs(cut).max(axis=2), np.finfo(np.float32).tiny) / (middle - 1)
    numbers = (np.round(cut / scales[..., None]) + middle).astype(np.uint8).reshape(table.shape)
    if bits == 4:
        numbers = numbers[:, 0::2] | numbers[:, 1::2] << 4
    return numbers, scales.astype(np.float32)


def _save(model: Any, path: Path) -> None:
    import onnx

    outside = model.ByteSize() > INLINE_BYTES
    onnx.save_model(model, str(path), save_as_external_data=outside, location=f"{MODEL}_data" if outside else None)
