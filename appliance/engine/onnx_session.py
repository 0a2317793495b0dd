"""Opening an ONNX model: the one place that chooses threads for onnxruntime and puts its complaints into words.

Session options: https://onnxruntime.ai/docs/performance/tune-performance/threading.html
"""

from __future__ import annotations

import re
from pathlib import Path

import onnxruntime as ort

from appliance.errors import ModelFileError, ModelFileMissing

MODEL = "model.onnx"
FATAL = 4
"""Severity from which on onnxruntime writes to stderr; everything that it has to say about a model is in its exception too."""
LONGEST_QUOTE_CHARS = 300
AGAIN = "Copy or download it again."
DATA = "that file (often model.onnx.data)"
EXPORT_AGAIN = "Export the model again with standard operators for an opset of today, as `appliance models convert` does."
COMPLAINTS = (
    ("Protobuf parsing failed", "it is damaged, cut off or no ONNX model", AGAIN),
    ("No graph was found", "it is empty or no ONNX model", AGAIN),
    ("escapes model directory", "the file with its weights is a link to a place outside its folder", f"Put {DATA} itself into the folder."),
    ("data path", "its weights are in a file of their own that is not beside it", f"Copy {DATA} into the same folder."),
    ("External initializer", "the file with its weights is cut off or damaged", f"Copy or download {DATA} again."),
    ("not a registered function/op", "it uses an operator that this onnxruntime does not have", EXPORT_AGAIN),
    ("No Op registered", "it uses an operator that this onnxruntime does not have", EXPORT_AGAIN),
    ("onnx opset versions", "it was made for a newer set of operators than this onnxruntime knows", EXPORT_AGAIN),
    ("IR version", "it was made for a newer ONNX than this onnxruntime knows", EXPORT_AGAIN),
)
"""What onnxruntime's exception contains, what that means and what to do. Its exception classes are much coarser than this."""


def model_path(folder_or_file: Path) -> Path:
    """The model.onnx of a folder, or the file itself. Raises ModelFileMissing."""
    path = folder_or_file / MODEL if folder_or_file.is_dir() else folder_or_file
    if not path.is_file():
        raise ModelFileMissing(f"There is no model file at {path}.", remedy="Check the path, or copy the file there.")
    return path


def open_session(folder_or_file: Path, threads: int, cpus: tuple[int, ...] = (), *, spin: bool) -> ort.InferenceSession:
    """Load a model for `threads` threads, of which the calling one is the first.

    cpus: where they may run; with one for each thread, the i-th runs on the i-th of them, except the calling one, which is
    the caller's to place. spin: threads wait busily for each other during a run (faster where the CPUs are theirs alone,
    slower where they are shared), never between two runs. Raises ModelFileMissing and ModelFileError with what is wrong.
    """
    path = model_path(folder_or_file)
    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    # Else threads spin on for tens of milliseconds after each run: CPU time that decoding models beside it lack.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if 1 < threads == len(cpus):
        places = ";".join(str(cpu + 1) for cpu in cpus[1:])  # onnxruntime counts processors from 1
        options.add_session_config_entry("session.intra_op_thread_affinities", places)
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes are of its own making, without a common one
        raise _in_words(path, str(error)) from error


def _in_words(path: Path, complaint: str) -> ModelFileError:
    found = next(((what, remedy) for part, what, remedy in COMPLAINTS if part in complaint), None)
    what, remedy = found or ("onnxruntime refuses it", f"It is damaged or of a kind that cannot be served. {AGAIN}")
    return ModelFileError(f"{path} cannot be opened: {what} ({first_words(complaint)}).", remedy=remedy)


def first_words(complaint: str) -> str:
    """What an exception of onnxruntime says, without its code and the places in its source, printable and not too long."""
    line = next((line for line in complaint.splitlines() if line.strip()), "no reason was given")
    line = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", line)
    line = re.sub(r"^Load model from .*? failed:", "", line)
    line = re.sub(r"\S*/onnxruntime_src/\S+:\d+ .*?\) (?=[A-Z])|\S+\.cc:\d+ \w+ ", "", line).strip().rstrip(".")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line[:LONGEST_QUOTE_CHARS])
