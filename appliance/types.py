"""Values that cross layers. Frozen, made of plain values, no behaviour beyond a property or two.

`pipeline.answer` takes a `GenerationRequest` and yields `Delta`, `Finished` and `Failed`; what makes an answer
(an engine, later the cache) is not visible in them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length"]
Priority = Literal["interactive", "batch"]
Task = Literal["generate", "embed", "rerank", "classify", "tokens"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. Names, meaning and defaults are llama.cpp's; OpenAI's names where both exist.

    temperature 0 is greedy. top_k 0, top_p 1, min_p 0, typical_p 1, the penalties' 0 (repeat_penalty 1) switch a
    filter off. penalty_last_n: tokens looked back, -1 for the whole context. logit_bias: (token id, added logit).
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_last_n: int = 64
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """Messages for the model's own chat template; each has `role` and `content` (text)."""

    messages: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Text that is tokenized as it is (the beginning-of-text token is added where the model wants one)."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids, used as they are."""

    tokens: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


@dataclass(frozen=True, slots=True)
class CacheWish:
    """What a request says about remembered answers.

    look: it may be answered by one. store: its answer may be kept. similar: so may the answer to a question of the same meaning.
    fresh_s: no answer older than this. ttl_s: how long its answer is kept. only: an error rather than a computed answer.
    namespace: a part of the caller's own namespace. tags: to purge by.
    """

    look: bool = True
    store: bool = True
    similar: bool = True
    only: bool = False
    fresh_s: float | None = None
    ttl_s: float | None = None
    namespace: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One API call: `prompts` times `choices` sequences, numbered prompt by prompt.

    max_tokens: None means up to the end of the context. logprobs: how many alternatives to report for each token,
    None for no log probabilities. echo: with logprobs, the prompt's own are reported too; its text is not part of the
    events (the completions endpoint puts it in front).
    """

    id: str
    model: str
    prompts: tuple[Prompt, ...]
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    choices: int = 1
    logprobs: int | None = None
    echo: bool = False
    priority: Priority = "interactive"
    principal: str = "anonymous"
    cache: CacheWish = CacheWish()

    @property
    def sequences(self) -> int:
        """How many answers will be generated."""
        return len(self.prompts) * self.choices


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token with its natural-log probability under the model (before sampling filters) and the best rivals."""

    token: int
    piece: bytes
    logprob: float | None
    top: tuple[tuple[int, bytes, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one sequence. cached_tokens: the part of the prompt that was not computed again."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """More text for sequence `index`. Text is whole characters; it may be empty while a character is incomplete."""

    index: int
    text: str
    tokens: int = 1
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """Sequence `index` is complete."""

    index: int
    reason: FinishReason
    usage: Usage
    stop_text: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """Sequence `index` ends without an answer. `error` is an `errors.ApplianceError`."""

    index: int
    error: Exception


@dataclass(frozen=True, slots=True)
class Recalled:
    """Where an answer comes from; before its first event.

    outcome: hit (a remembered answer, or one that is being generated for somebody else: tier `flight`), miss or bypass.
    score: calibrated probability that both questions mean the same, 1 where they are equal. age_s: of the remembered answer.
    why: of a miss or bypass. entry: its number in the cache. reviewed_by, reviewed_on: who approved the answer, and the date.
    """

    outcome: Literal["hit", "miss", "bypass"]
    tier: Literal["", "reviewed", "exact", "semantic", "flight"] = ""
    score: float | None = None
    age_s: float | None = None
    why: str = ""
    entry: int | None = None
    reviewed_by: str = ""
    reviewed_on: str = ""


Event = Delta | Finished | Failed | Recalled


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing to send yet; the caller may send a keep-alive and look whether its client is still there.

    ahead: how many requests are before it in line, None when it is not in line. wait_s: about how long it will stand there.
    """

    ahead: int | None = None
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What an engine tells about the model it has loaded. context_tokens: for one request. kv_tokens: for all.

    task: what it can be asked. dimensions: of an embedder's vectors. labels: of a classifier, in the order of its scores.
    """

    name: str
    path: str
    task: Task = "generate"
    dimensions: int = 0
    labels: tuple[str, ...] = ()
    description: str = ""
    parameters: int = 0
    size_bytes: int = 0
    vocabulary: int = 0
    context_tokens: int = 0
    trained_context_tokens: int = 0
    kv_tokens: int = 0
    kv_bytes: int = 0
    sequences: int = 0
    has_chat_template: bool = False
    threads: int = 0
    cpus: tuple[int, ...] = ()
    backend: str = ""
