"""Is it alive, is it ready, how is it doing."""

from appliance.clock import FakeClock
from appliance.http.health import Movement


def test_a_ready_service_is_healthy(client):
    for path in ("/health", "/v1/health", "/livez"):
        response = client.get(path)
        assert response.status_code == 200
        assert response.get_json() == {"status": "ok"}
    assert client.head("/health").status_code == 200


def test_readyz_tells_each_models_state(client):
    body = client.get("/readyz").get_json()
    assert body["status"] == "ready"
    state = body["models"]["fake"]
    assert state["state"] == "ready"
    assert state["restarts"] == {}
    assert state["pid"] > 0
    assert state["cpus"] == [0] and state["threads"] == 1
    assert state["requests_waiting"] == 0 and state["sequences_running"] == 0
    assert {"reason", "phase", "progress", "steps"} <= set(state)


def test_while_a_model_loads_health_is_503_in_llama_servers_words(make_service, check_error, wait_for):
    service = make_service(loaded=False)
    wait_for(lambda: service.pipeline.engines["fake"].supervisor.status.progress)
    for path, status in (("/health", "loading model"), ("/readyz", "not ready")):
        response = service.client.get(path)
        error = check_error(response, 503, "model_loading")
        assert response.get_json()["status"] == status
        assert response.headers["Retry-After"] == "5"
        assert "reading weights, 50%" in error["message"]
    assert service.client.get("/livez").status_code == 200


def test_one_ready_model_is_enough(make_service, wait_for):
    service = make_service(models=("one", "two"))
    service.pipeline.engines["two"].supervisor.status.state = "loading"
    assert service.client.get("/health").status_code == 200
    body = service.client.get("/readyz").get_json()
    assert [body["models"][n]["state"] for n in ("one", "two")] == ["ready", "loading"]


def test_a_model_that_failed_is_told_with_its_reason(make_service, check_error, wait_for):
    service = make_service(refuse="The file is damaged.")
    wait_for(lambda: service.pipeline.engines["fake"].supervisor.status.state == "failed")
    for path in ("/health", "/readyz"):
        error = check_error(service.client.get(path), 503, "model_failed")
        assert "The file is damaged." in error["message"]
    assert "damaged" in service.client.get("/readyz").get_json()["models"]["fake"]["reason"]


def test_a_draining_service_is_not_ready_but_alive(service, check_error):
    service.pipeline.draining = True
    check_error(service.client.get("/health"), 503, "draining")
    check_error(service.client.get("/readyz"), 503, "draining")
    assert service.client.get("/livez").status_code == 200


def test_an_engine_that_has_work_and_does_not_move_is_not_ready(make_service, check_error, wait_for):
    service = make_service(hang_timeout_s=0.2, sequences=1)
    engine = service.pipeline.engines["fake"]
    places = [engine.admission.enter("somebody") for _ in range(4)]
    assert service.client.get("/readyz").status_code == 200
    wait_for(lambda: service.client.get("/readyz").status_code == 503)
    error = check_error(service.client.get("/readyz"), 503, "model_failed")
    assert "does not move" in error["message"]
    for place in places:
        engine.admission.leave(place)
    assert service.client.get("/readyz").status_code == 200


def test_stillness_only_counts_while_work_is_waiting(service):
    clock, engine = FakeClock(), service.pipeline.engines["fake"]
    movement = Movement(clock)
    assert movement.still_s("fake", engine) == 0
    clock.advance(100)
    assert movement.still_s("fake", engine) == 0
    places = [engine.admission.enter("x") for _ in range(7)]
    clock.advance(3)
    assert movement.still_s("fake", engine) == 3
    engine.client.steps += 1
    assert movement.still_s("fake", engine) == 0
    for place in places:
        engine.admission.leave(place)


def test_metrics_are_prometheus_text_with_requests_by_route(client, hello):
    client.post("/v1/chat/completions", json=hello)
    client.get("/v1/models/nothing")
    client.get("/etc/passwd")
    client.open("/v1/models", method="BREW")
    response = client.get("/metrics")
    assert response.content_type == "text/plain; version=0.0.4; charset=utf-8"
    lines = response.get_data(as_text=True).splitlines()
    for method, route, status in [
        ("POST", "/v1/chat/completions", 200),
        ("GET", "/v1/models/<path:name>", 404),
        ("GET", "unmatched", 404),
        ("other", "unmatched", 405),
    ]:
        assert f'appliance_requests_total{{method="{method}",route="{route}",status="{status}"}} 1' in lines
    assert any(line.startswith("appliance_time_to_first_token_seconds_count") for line in lines)
