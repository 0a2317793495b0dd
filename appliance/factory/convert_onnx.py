"""A Hugging Face checkpoint as an ONNX model: a folder in, a folder out, nothing fetched from anywhere.

The export itself is optimum's. What comes out: `model.onnx` (float32; beside it `model.onnx_data` above 2 GB), the
tokenizer, the configuration and sentence-transformers' pooling, each where the checkpoint has it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appliance.errors import ApplianceError, InvalidRequest, ModelFileError, ModelFileMissing, StorageFailed
from appliance.storage import in_words, sync_folder

MODEL = "model.onnx"
TOKENIZER = "tokenizer.json"
COMPANIONS = (
    "config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
    "modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "config_sentence_transformers.json",
)  # fmt: skip
"""Files of a checkpoint that are copied as they are, where it has them."""
TASKS = ("feature-extraction", "text-classification", "token-classification", "text-generation-with-past")
HEADS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForCausalLM": "text-generation-with-past",
    "LMHeadModel": "text-generation-with-past",
}
"""How the name of an architecture ends, and the task it is for; one that ends in Model gives features."""
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
Tell = Callable[[str], None]


@contextmanager
def whole_folder(target: Path, needed_bytes: int = 0) -> Iterator[Path]:
    """A folder to write into that becomes `target` when the block ends without an error, and is gone otherwise.

    Raises InvalidRequest when the target exists; StorageFailed when `needed_bytes` are not free or writing fails.
    """
    if target.exists() or target.is_symlink():
        raise InvalidRequest(f"{target} exists already.", param="target", remedy="Remove it or choose another name.")
    if not target.parent.is_dir():
        raise InvalidRequest(f"There is no folder {target.parent}.", param="target", remedy="Make it first.")
    free = shutil.disk_usage(target.parent).free
    if free < needed_bytes:
        raise StorageFailed(
            f"{target.parent} has {free // 10**6} MB free; up to {needed_bytes // 10**6} MB are needed.",
            remedy="Free some space and try again.",
        )
    try:
        with passing_folder(target, ".part") as part:
            yield part
            part.chmod(0o755)  # the service may be another user
            for path in part.rglob("*"):
                if path.is_dir():
                    sync_folder(path)
                else:
                    with path.open("rb") as file:
                        os.fsync(file.fileno())
            os.rename(part, target)
            sync_folder(target.parent)
    except OSError as error:
        raise in_words(error, f"Writing {target}") from error


@contextmanager
def passing_folder(target: Path, suffix: str) -> Iterator[Path]:
    """A hidden folder of a new name beside `target`, for its owner only, that is gone when the block ends, however it ends.

    `tempfile` leaves its folder behind where a Ctrl-C comes just as it is made.
    """
    made = target.parent / f".{target.name}.{secrets.token_hex(8)}{suffix}"
    try:
        made.mkdir(mode=0o700)
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint or a converted model. Raises ModelFileMissing or ModelFileError."""
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelFileMissing(f"There is no {path}.", remedy="Give the folder of a Hugging Face checkpoint.") from None
    except OSError as error:
        raise in_words(error, f"Reading {path}") from None
    except ValueError as error:
        raise ModelFileError(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(found, dict):
        raise ModelFileError(f"{path} holds no object.")
    return found


def task_of(config: dict[str, Any], folder: Path) -> str:
    """The task (one of TASKS) that a checkpoint is for, by its architecture. Raises ModelFileError when it has none of them."""
    if (folder / "modules.json").exists():
        return "feature-extraction"
    names = config.get("architectures") or []
    for name in names:
        for ending, task in HEADS.items():
            if str(name).endswith(ending):
                return task
    if any(str(name).endswith("Model") for name in names):
        return "feature-extraction"
    raise ModelFileError(
        f"{folder / 'config.json'} names no architecture whose task is known: {', '.join(map(str, names)) or 'none at all'}.",
        remedy=f"Name the task: {', '.join(TASKS)}.",
    )


def convert(folder: Path, target: Path, *, task: str = "auto", tell: Tell = lambda words: None) -> None:
    """Export the checkpoint in `folder` to `target/model.onnx` with its tokenizer and configuration.

    task: one of TASKS, or "auto" for what the architecture says. The target appears whole or not at all. Raises
    InvalidRequest (task, target), ModelFileMissing and ModelFileError (the checkpoint), StorageFailed (the disk).
    """
    config = read_config(folder)
    if task == "auto":
        task = task_of(config, folder)
    if task not in TASKS:
        raise InvalidRequest(f"There is no task {task!r}.", param="task", remedy=f"Choose one of {', '.join(TASKS)}.")
    weights = sum(path.stat().st_size for pattern in WEIGHTS for path in folder.glob(pattern))
    if not weights:
        raise ModelFileMissing(f"{folder} holds no weights.", remedy=f"There should be a file like {' or '.join(WEIGHTS)}.")
    # A 16-bit checkpoint doubles when it becomes float32.
    with whole_folder(target, 2 * weights) as part, passing_folder(target, ".export") as scratch:
        tell(f"exporting {folder.name} for {task}")
        try:
            _export(folder, scratch, task, str(config.get("model_type", "")))
        except ApplianceError:
            raise
        except OSError as error:
            if error.errno is not None:
                raise
            raise _not_convertible(folder, error) from error  # transformers says so of what it does not find
        except Exception as error:
            raise _not_convertible(folder, error) from error
        for path in sorted(scratch.glob(f"{MODEL}*")):
            shutil.move(path, part / path.name)
        if not (part / MODEL).is_file():
            raise ModelFileError(f"The export of {folder} wrote no {MODEL}.", remedy="Models of several parts are not supported.")
        _copy_companions(folder, scratch, part)
        tell("checking that the model opens")
        check_opens(part / MODEL)


def _export(folder: Path, out: Path, task: str, model_type: str) -> None:
    with warnings.catch_warnings(), _offline():
        # The exporter says how it is done (tracing, the TorchScript exporter); nothing there can be acted on.
        warnings.simplefilter("ignore")
        from optimum.exporters.onnx import main_export
        from optimum.exporters.tasks import TasksManager
        from optimum.utils import logging as exporter_log
        from transformers.utils import logging as model_log

        known = TasksManager.get_supported_model_type_for_task(task, "onnx")
        if model_type not in known:
            raise ModelFileError(
                f"{folder} is a model of the kind {model_type or 'unknown'!r}, which cannot be exported for {task}.",
                remedy=f"Kinds that can: {', '.join(sorted(known))}.",
            )
        logs = (exporter_log, model_log)
        before = [log.get_verbosity() for log in logs]
        for log in logs:
            log.set_verbosity_error()
        try:
            main_export(
                str(folder), str(out), task=task, library_name="transformers", framework="pt", local_files_only=True,
                do_validation=False,
            )  # fmt: skip
        finally:
            for log, verbosity in zip(logs, before, strict=True):
                log.set_verbosity(verbosity)


@contextmanager
def _offline() -> Iterator[None]:
    """Hugging Face's libraries read HF_HUB_OFFLINE once, when they are imported: it is set where they keep it."""
    import huggingface_hub
    import huggingface_hub.constants as hub
    import transformers.utils.hub as models

    before = hub.HF_HUB_OFFLINE, models._is_offline_mode
    hub.HF_HUB_OFFLINE = models._is_offline_mode = True
    huggingface_hub.utils.reset_sessions()  # an open session would go on as it was made
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE, models._is_offline_mode = before
        huggingface_hub.utils.reset_sessions()


def _not_convertible(folder: Path, error: Exception) -> ModelFileError:
    words = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ModelFileError(f"{folder} cannot be converted: {words[:300]}", remedy="Check that the checkpoint is complete and of a supported kind.")


def _copy_companions(folder: Path, exported: Path, part: Path) -> None:
    for name in COMPANIONS:
        origin = folder / name
        if not origin.is_file():
            origin = exported / name
        if origin.is_file():
            (part / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(origin, part / name)
    origin = next((f / TOKENIZER for f in (folder, exported) if (f / TOKENIZER).is_file()), None)
    if origin is not None:
        from tokenizers import Tokenizer

        # Checkpoints of sentence-transformers pad every sentence to 128 tokens here; how to pad and cut is for the caller.
        tokenizer = Tokenizer.from_file(str(origin))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.save(str(part / TOKENIZER), pretty=False)


def check_opens(path: Path) -> None:
    """Open an ONNX file as an engine would. Raises ModelFileError."""
    import onnxruntime

    try:
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelFileError(f"The model that was written cannot be opened: {str(error).splitlines()[0][:300]}") from error
