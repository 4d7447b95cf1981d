"""A vision transformer, trained, against the outputs of the reference implementation."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from device_agent.engine import Engine
from shard_store.errors import RequestError
from tests.cli_runs import Sti
from tests.http_server import serving_loaded
from tests.images import digit, encoded
from tests.packaging import package_quietly


@pytest.fixture(scope="module")
def store(shared_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("vit") / "store"
    return package_quietly(shared_models / "vit-mnist", out, sequences=(64,), bitwidths=(4, 8, 32))


@pytest.mark.parametrize("bits", [8, 32])
def test_outputs_equal_the_reference_implementation(store: Path, bits: int, shared: Path) -> None:
    golden = json.loads((shared / "models" / "vit-mnist" / "golden.json").read_text())["inputs"]
    images = [encoded(digit(shared, entry["image_index"])) for entry in golden]
    expected = np.asarray([entry["logits"] for entry in golden], np.float32)
    with Engine(store) as engine:
        found = np.stack(engine.classify_images(images, engine.uniform_plan(bits)).outputs)
    assert found.argmax(axis=1).tolist() == expected.argmax(axis=1).tolist()
    if bits == 32:
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_narrow_and_shallow_runs_streamed_as_resident(store: Path, shared: Path) -> None:
    image = encoded(digit(shared, 3))
    with Engine(store) as engine:
        plan = engine.uniform_plan(4, layers=4, slices=3)
        first, second = (engine.classify_images([image], plan).outputs[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_model_of_images_refuses_texts(store: Path) -> None:
    with Engine(store) as engine, pytest.raises(RequestError, match="reads images, not texts; send PNG or JPEG"):
        engine.answer(["three"])


def test_images_are_classified_over_http(store: Path, shared: Path) -> None:
    files = [base64.b64encode(encoded(digit(shared, index))).decode() for index in (126, 31)]
    with serving_loaded(Engine(store)) as client:
        answer = client.post("/v1/images/classify", json={"input": [files[0], f"data:image/png;base64,{files[1]}"]})
        assert [item["label"] for item in answer.json()["data"]] == ["0", "1"]
        assert answer.json()["usage"]["prompt_tokens"] == 2 * 17
        for path, body, message in (
            ("/v1/images/classify", {"input": "no base64"}, "input 0 is not base64"),
            ("/v1/images/classify", {"input": "aaaa"}, "image 0 is not a PNG or JPEG"),
            ("/v1/classify", {"input": "three"}, "reads images; ask /v1/images/classify"),
            ("/v1/completions", {"prompt": "three"}, "generates no text; ask /v1/classify"),
        ):
            refused = client.post(path, json=body)
            assert refused.status_code == 400
            assert message in refused.json()["error"]["message"]


def test_the_command_line_classifies_files(store: Path, shared: Path, sti: Sti, tmp_path: Path) -> None:
    (tmp_path / "digit.png").write_bytes(encoded(digit(shared, 126)))
    with serving_loaded(Engine(store)) as client:
        shown = sti("infer", tmp_path / "digit.png", "--url", client.base_url)
        missing = sti("infer", tmp_path / "none.png", "--url", client.base_url)
        ignored = sti("infer", tmp_path / "digit.png", "--url", client.base_url, "--seed", 1)
    assert "are for models that generate text; leave them out" in ignored.err
    assert "digit.png: 0 (0." in shown.out
    assert missing.code == 1
    assert "none.png: cannot be read (No such file or directory)" in missing.err
