"""The client people really use, in its strict mode, over a real socket."""

import ssl

import openai
import pytest


@pytest.fixture
def connect(serve):
    made = []

    def start(service, key="none"):
        client = openai.OpenAI(
            base_url=serve(service) + "/v1",
            api_key=key,
            max_retries=0,
            # Its own, but for one thing: it reads no certificates, which takes 25 ms and is of no use without TLS.
            http_client=openai.DefaultHttpxClient(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)),
            _strict_response_validation=True,
        )
        made.append(client)
        return client

    yield start
    for client in made:
        client.close()


@pytest.fixture
def ai(connect, service):
    return connect(service)


MESSAGES = [{"role": "user", "content": "hello"}]


def test_models(ai):
    assert [m.id for m in ai.models.list()] == ["fake"]
    assert ai.models.retrieve("fake").owned_by == "appliance"


def test_a_chat(ai):
    answer = ai.chat.completions.create(model="fake", messages=MESSAGES, seed=1, stop=["!"], temperature=0)
    assert answer.choices[0].message.content == "echo: hello"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer._request_id


def test_a_stream_with_usage(ai):
    chunks = list(
        ai.chat.completions.create(model="fake", messages=MESSAGES, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "echo: hello"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == len("echo: hello")


def test_several_choices(ai):
    answer = ai.chat.completions.create(model="fake", messages=MESSAGES, n=2)
    assert [c.message.content for c in answer.choices] == ["echo: hello"] * 2


def test_chat_logprobs_whole_and_streamed(ai):
    answer = ai.chat.completions.create(model="fake", messages=MESSAGES, logprobs=True, top_logprobs=3, max_tokens=2)
    entries = answer.choices[0].logprobs.content
    assert [(e.token, len(e.top_logprobs)) for e in entries] == [("e", 3), ("c", 3)]
    chunks = list(ai.chat.completions.create(model="fake", messages=MESSAGES, logprobs=True, max_tokens=2, stream=True))
    tokens = [e.token for c in chunks if c.choices[0].logprobs for e in c.choices[0].logprobs.content]
    assert tokens == ["e", "c"]


def test_completions_of_several_prompts_with_logprobs(ai):
    answer = ai.completions.create(model="fake", prompt=["a", "ab"], max_tokens=2, n=2, logprobs=1)
    assert [(c.index, c.text) for c in answer.choices] == [(0, "bc"), (1, "bc"), (2, "cd"), (3, "cd")]
    assert answer.choices[0].logprobs.tokens == ["b", "c"]
    assert answer.choices[0].logprobs.text_offset == [0, 1]


def test_completions_of_token_ids_streamed(ai):
    # The client's type forbids the null finish_reason that OpenAI itself sends in these chunks: not strict here.
    ai._strict_response_validation = False
    chunks = list(ai.completions.create(model="fake", prompt=[97, 98], max_tokens=3, stream=True, echo=True))
    assert "".join(c.choices[0].text for c in chunks) == "abcde"


def test_the_streaming_helper_puts_the_answer_together(ai):
    with ai.chat.completions.stream(model="fake", messages=MESSAGES) as stream:
        assert stream.get_final_completion().choices[0].message.content == "echo: hello"


@pytest.mark.parametrize("form", [openai.NOT_GIVEN, "float", "base64"])  # it asks for base64 by itself, and decodes that
def test_embeddings(connect, make_service, form):
    ai = connect(make_service(models=("fake", "embed")))
    ai._strict_response_validation = form == "float"  # the client's type knows no base64, which it decodes only afterwards
    answer = ai.embeddings.create(model="embed", input=["a cat", "a dog", "a cat"], encoding_format=form, dimensions=16, user="me")
    first, second, third = (row.embedding for row in answer.data)
    if form == "base64":
        assert isinstance(first, str) and first == third
    else:
        assert len(first) == 16 and sum(x * x for x in first) == pytest.approx(1, abs=1e-5)
    assert first == third != second
    assert (answer.model, answer.usage.prompt_tokens, answer.usage.total_tokens) == ("embed", 12, 12)


def test_embeddings_of_token_ids_and_refusals(connect, make_service):
    ai = connect(make_service(models=("embed",)))
    ai._strict_response_validation = False
    assert len(ai.embeddings.create(model="", input=[[1, 2, 3], [4]]).data) == 2
    with pytest.raises(openai.BadRequestError) as caught:
        ai.embeddings.create(model="embed", input=["a", ""])
    assert caught.value.param == "input[1]"
    with pytest.raises(openai.NotFoundError):
        ai.embeddings.create(model="text-embedding-3-small", input="a")


def test_leaving_a_stream_early_cancels_the_work(connect, make_service, wait_for):
    service = make_service(step_s=0.005, context_tokens=4096)
    long = [{"role": "user", "content": "!long"}]
    with connect(service).chat.completions.create(model="fake", messages=long, stream=True) as stream:
        for number, _ in enumerate(stream):
            if number == 3:
                break
    wait_for(lambda: service.outstanding() == 0, 1.5)
    assert service.pipeline.engines["fake"].admission.running == 0


def test_errors_become_the_clients_exceptions(ai):
    with pytest.raises(openai.BadRequestError) as caught:
        ai.chat.completions.create(model="fake", messages=[])
    assert (caught.value.param, caught.value.code, caught.value.type) == (
        "messages",
        "invalid_request",
        "invalid_request_error",
    )
    with pytest.raises(openai.NotFoundError) as caught:
        ai.models.retrieve("nothing")
    assert caught.value.code == "model_not_found"


def test_a_wrong_key_is_an_authentication_error(connect, make_service):
    service = make_service(api_key=("secret",))
    with pytest.raises(openai.AuthenticationError) as caught:
        connect(service, "wrong").models.list()
    assert caught.value.code == "invalid_api_key"
    assert [m.id for m in connect(service, "secret").models.list()] == ["fake"]


def test_a_failed_model_is_an_internal_server_error_for_the_client(connect, make_service, wait_for):
    service = make_service(refuse="It is damaged.")
    wait_for(lambda: service.pipeline.engines["fake"].supervisor.status.state == "failed")
    with pytest.raises(openai.InternalServerError) as caught:
        connect(service).chat.completions.create(model="fake", messages=MESSAGES)
    assert caught.value.status_code == 503
    assert caught.value.code == "model_failed"


def test_an_error_in_mid_stream_is_an_api_error(connect, make_service):
    service = make_service(step_s=0.01)
    stream = connect(service).chat.completions.create(
        model="fake", messages=[{"role": "user", "content": "!long"}], stream=True
    )
    with pytest.raises(openai.APIError) as caught:
        for number, _ in enumerate(stream):
            if number == 3:
                service.children[-1].kill()
    assert caught.value.code == "engine_lost"
