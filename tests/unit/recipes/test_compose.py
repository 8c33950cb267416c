"""Which environments, chains and releases come of what was asked for."""

from __future__ import annotations

import pytest
from fake_index import ANY, YEARS, FakeIndex, linux

from runner.errors import BadInput, EnvironmentUnavailable
from runner.recipes.compose import Composition, Environment, compose
from runner.recipes.knowledge import load_knowledge
from runner.recipes.reading.requirements import read_pin
from runner.recipes.releases import Releases

KNOWLEDGE = load_knowledge()


def make(*pins: str, as_of: str = "", index: FakeIndex | None = None) -> Composition:
    return compose(
        [read_pin(pin) for pin in pins],
        KNOWLEDGE,
        Releases(index or FakeIndex(YEARS)),
        as_of=f"{as_of}T00:00:00Z" if as_of else "",
        pythons=KNOWLEDGE.pythons,
    )


def by_end(composition: Composition) -> dict[str, Environment]:
    return {environment.end: environment for environment in composition.environments}


def list_modules(composition: Composition, accepts: str = "pytorch") -> list[str]:
    route = next(route for route in composition.routes if route.accepts == accepts)
    return [step.stage["module"].rpartition(".")[2] for step in route.steps]


def list_pins(environment: Environment) -> list[str]:
    return [tool.pin for tool in environment.tools]


def test_pins_of_2021() -> None:
    made = make("torch==1.8.1", "onnx-tf==1.8.0", "tensorflow==2.5.0", "onnx==1.8.1")
    found = by_end(made)
    assert list(found) == ["torch", "onnx-tf"]
    assert list_pins(found["torch"]) == ["torch==1.8.1", "onnx==1.8.1"]
    assert list_pins(found["onnx-tf"]) == ["onnx-tf==1.8.0", "tensorflow-cpu==2.5.0", "onnx==1.8.1"]
    assert list_modules(made) == ["torch_to_onnx", "onnx_to_saved_model", "saved_model_to_tflite"]
    assert list_modules(made, "onnx")[0] == "given_onnx"
    assert made.as_of == "2021-05-20T00:00:00Z"  # TensorFlow's day and the margin
    assert any(text.startswith("tensorflow-addons") for text in found["onnx-tf"].added)


def test_names_as_of_a_date() -> None:
    made = make("torch", "onnx", "onnx-tf", "tensorflow", "numpy", as_of="2021-06-01")
    found = by_end(made)
    assert list_pins(found["torch"]) == ["torch==1.8.1"]
    assert list_pins(found["onnx-tf"]) == ["onnx-tf==1.8.0", "tensorflow-cpu==2.5.0"]
    # The resolver chooses these, within what the tools take.
    assert {"onnx<1.10"} < set(found["onnx-tf"].added)


def test_onnx_tf_alone_gets_a_tensorflow_and_starts_from_onnx() -> None:
    made = make("onnx-tf==1.8.0")
    assert [route.accepts for route in made.routes] == ["onnx"]
    assert list_pins(by_end(made)["onnx-tf"]) == ["onnx-tf==1.8.0", "tensorflow-cpu==2.4.0"]
    assert by_end(made)["onnx"].steps[0].stage["name"] == "onnx"


def test_an_old_onnx_tf_makes_a_frozen_graph() -> None:
    made = make("torch==1.5.1", "onnx-tf==1.6.0", "tensorflow==2.2.0")
    assert list_modules(made) == ["torch_to_onnx", "onnx_to_graph", "graph_to_tflite"]


def test_a_nightly_beside_a_release_has_its_own_environment_and_a_stand_in() -> None:
    made = make(
        "torch==1.5.1+cu101",
        "onnx-tf==1.6.0",
        "tensorflow-gpu==2.2.0",
        "tf-nightly==2.4.0.dev20200923",
    )
    found = by_end(made)
    assert list_pins(found["onnx-tf"]) == ["onnx-tf==1.6.0", "tensorflow-cpu==2.2.0"]
    (nightly,) = found["tflite"].tools
    assert nightly.stand_in is not None
    assert nightly.stand_in.pin == "tf-nightly==2.4.0.dev20200923"
    assert nightly.stand_in.use == "tensorflow-cpu==2.4.0"
    assert "2020-12-14" in nightly.stand_in.reason and "2020;" in nightly.stand_in.reason
    assert nightly.needs_date == "2020-12-17T00:00:00Z"
    torch = found["torch"].tools[0]
    assert torch.pin == "torch==1.5.1" and "GPU" in torch.note


def test_a_nightly_alone_serves_both_stages() -> None:
    made = make("torch==1.5.1", "onnx-tf==1.6.0", "tf-nightly==2.4.0.dev20200923")
    assert list(by_end(made)) == ["torch", "onnx-tf"]


@pytest.mark.parametrize(("release", "has_tensorflow"), [("1.22.3", True), ("2.6.9", False)])
def test_onnx2tf_needs_tensorflow_before_2(release: str, has_tensorflow: bool) -> None:
    index = FakeIndex(
        {**YEARS, "tensorflow-cpu": {"2.17.0": ("2024-07-11", linux("3.11"))}},
    )
    made = make("torch==1.9.0", f"onnx2tf=={release}", as_of="2026-11-01", index=index)
    found = by_end(made)["onnx2tf"]
    assert ("tensorflow-cpu==2.17.0" in list_pins(found)) is has_tensorflow
    assert list_modules(made) == ["torch_to_onnx", "onnx_to_tflite"]


def test_litert_torch_is_one_stage_with_torch_beside_it() -> None:
    index = FakeIndex({**YEARS, "litert-torch": {"0.10.0": ("2026-10-20", ANY)}})
    made = make("litert-torch==0.10.0", "torch==1.9.0", index=index)
    assert list_modules(made) == ["torch_to_tflite"]
    assert list_pins(by_end(made)["litert-torch"]) == ["litert-torch==0.10.0", "torch==1.9.0"]


@pytest.mark.parametrize(
    ("pins", "message"),
    [
        (("matplotlib==3.4.2",), "name no tool"),
        (("torch==1.8.1", "onnx==1.8.1"), "name onnx, torch, and nothing that makes"),
        (("tensorflow==2.5.0",), "name tensorflow, and nothing"),
        ((), "name no tool"),
    ],
)
def test_nothing_that_makes_a_chain(pins: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        make(*pins)
    assert "onnx2tf" in caught.value.remedy


def test_a_date_before_a_pin() -> None:
    with pytest.raises(BadInput, match="published on 2021-06-15") as caught:
        make("torch==1.9.0", "onnx-tf==1.8.0", "tensorflow==2.5.0", as_of="2021-06-01")
    assert "--as-of 2021-06-16" in caught.value.remedy


def test_names_without_a_date() -> None:
    with pytest.raises(BadInput, match="Nothing says of when"):
        make("torch", "onnx-tf", "tensorflow")


def test_a_release_that_is_gone() -> None:
    with pytest.raises(EnvironmentUnavailable, match=r"torch==1\.8\.7 .* is on no index") as caught:
        make("torch==1.8.7", "onnx-tf==1.8.0", "tensorflow==2.5.0")
    assert caught.value.remedy.endswith("--pin torch==1.8.1.")


def test_a_nightly_without_a_number() -> None:
    with pytest.raises(BadInput, match="names a development build and no release"):
        make("torch==1.5.1", "onnx-tf==1.6.0", "tf-nightly", as_of="2020-12-20")


def test_pins_for_no_machine_of_ours() -> None:
    index = FakeIndex({**YEARS, "torch": {"1.8.1": ("2021-03-25", ("cp38-cp38-win_amd64",))}})
    with pytest.raises(EnvironmentUnavailable, match="has no files for x86-64 Linux"):
        make("torch==1.8.1", "onnx-tf==1.8.0", "tensorflow==2.5.0", index=index)
