"""Reads the text of a program as the compiler for TPUs writes it, and compiles one where the compiler is installed."""

import importlib.util
import json
import subprocess
import sys

import pytest

from benchmarks.speed import compiled_tpu, tpu_estimates

STEP = "jit(train_step)"
TEXT = """HloModule step
%fused (a: bf16[4,8], b: f32[8,8]) -> f32[4,8] {
  %a = bf16[4,8]{1,0} parameter(0)
  %b = f32[8,8]{1,0} parameter(1)
  %convolution.1 = f32[4,8]{1,0} convolution(%a, %b), dim_labels=bf_io->bf, metadata={op_name="STEP/jvp(DeepLab)\
/classifier/dot"}
  %convolution.2 = f32[4,8]{1,0} convolution(%a, %a), dim_labels=bf_io->bf, metadata={op_name="STEP/jvp(DeepLab)/x/dot"}
  ROOT %convolution.3 = f32[4,8]{1,0} convolution(%b, %b), metadata={op_name="STEP/jvp(bHh,bhWk->bHWk)/dot_general"}
}
ENTRY %main (x: bf16[4,8]) -> f32[] {
  %x = bf16[4,8]{1,0} parameter(0)
  %convolution_fusion.1 = bf16[4,8]{1,0:T(8,128)(2,1)} fusion(%x), kind=kOutput, metadata={op_name="STEP/jvp(DeepLab)\
/backbone/stage3_block2/reduce/dot" stack_frame_id=1}, backend_config={"estimated_cycles":"3000000"}
  %copy.2 = bf16[8,4]{1,0} copy(%x), metadata={op_name="STEP/transpose(jvp(DeepLab))/backbone/stage3_block1/x"}, \
backend_config={"estimated_cycles":"1500000"}
  %fusion.4 = f32[2]{0} fusion(%x), kind=kLoop, metadata={op_name="STEP/jvp(GlobalDiscriminator)/conv1/add"}, \
backend_config={"estimated_cycles":"150000"}
  %all-reduce.1 = (f32[16]{0}, f32[16]{0}) all-reduce(%fusion.4, %fusion.4), to_apply=%sum
  %all-reduce.2 = bf16[100,100]{1,0} all-reduce(%copy.2), to_apply=%sum
  ROOT %add = f32[] add(%fusion.4, %fusion.4)
}
""".replace("STEP", STEP)


def test_estimates_by_hand():
    found = tpu_estimates.estimates(TEXT)
    assert found["by_kind"] == pytest.approx({"convolution fusion": 2.0, "copy": 1.0, "fusion": 0.1})
    assert found["by_layer"] == pytest.approx({"backbone/stage3": 3.0, "GlobalDiscriminator": 0.1})
    assert found["milliseconds"] == pytest.approx(3.1)
    assert found["collectives"] == {
        "all-reduce f32": {"count": 1, "small": 1, "bytes": 128},
        "all-reduce bf16": {"count": 1, "small": 0, "bytes": 20_000},
    }
    assert found["float32_products"] == {"classifier": 1, "losses and update": 1}
    assert [(kind, result) for _, kind, result, _ in found["largest_moves"]] == [("copy", "bf16[8,4]")]


@pytest.mark.parametrize(
    ("place", "layer"),
    [
        (f"{STEP}/transpose(jvp(DeepLab))/backbone/stage2_block1/first/cond/branch_0_fun/mul", "backbone/stage2"),
        (f"{STEP}/jvp(DeepLab)/backbone.levels/block7/query/dot_general", "backbone/blocks"),
        (f"{STEP}/jvp(DeepLab)/backbone/stem/cond/branch_0_fun/add", "backbone/stem"),
        (f"{STEP}/jvp(DeepLab)/backbone/convert_element_type", "backbone"),
        (f"{STEP}/jvp(DeepLab)/classifier/pad", "classifier"),
        (f"{STEP}/jvp(SemanticDiscriminator)/hidden1/add", "SemanticDiscriminator"),
        (f"{STEP}/jvp()/reduce_sum", "losses and update"),
        ("", "unnamed"),
    ],
)
def test_layers_by_hand(place, layer):
    assert tpu_estimates.layer_of(place) == layer


def test_limits_and_travel_by_hand():
    least = tpu_estimates.limits(flop=197e12, traffic=819e9)
    assert least["v5e"] == pytest.approx({"arithmetic": 1000.0, "memory": 1000.0})
    assert least["v6e"]["arithmetic"] == pytest.approx(1000 * 197 / 918)
    sums = {"all-reduce f32": {"bytes": 30e6}, "all-reduce bf16": {"bytes": 15e6}}
    assert tpu_estimates.travel_milliseconds(sums, 4) == pytest.approx(1.5)
    assert tpu_estimates.travel_milliseconds(sums, 1) == 0


def test_page_has_all_figures():
    found = tpu_estimates.estimates(TEXT) | {"config": "configs/toy.py:ass", "dtype": "bfloat16", "topology": "v5e:2x4"}
    found |= {"chips": 4, "memory": {"code": 2e9}, "tflop": 9.15, "bytes": 37e9}
    page = tpu_estimates.page(found)
    for line in (
        "# configs/toy.py:ass, bfloat16, 4 chips of v5e:2x4",
        "| memory, GB | code 2.00 |",
        "| step by the compiler's cycles, ms | 3.1 |",
        "| v5e: arithmetic alone, all operands from memory, ms | 46.4, 45.2 |",
        "| backbone/stage3 | 3.000 |",
        "| all-reduce bf16 | 1 | 0 | 0.0 |",
        "| classifier | 1 |",
    ):
        assert line in page.splitlines()


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason='needs the compiler: pip install "jax[tpu]"')
@pytest.mark.parametrize("chips", [1, 4])
def test_only_sums_travel_between_chips(chips, tmp_path):
    command = ["benchmarks.speed.compiled_tpu", "--config=configs/toy.py:ass", "--config.model.dtype=bfloat16"]
    file = tmp_path / "found.json"
    subprocess.run([sys.executable, "-m", *command, f"--chips={chips}", f"--json={file}"], check=True)
    found = json.loads(file.read_text())
    sums = found["collectives"]
    assert {name.split()[0] for name in sums} == (set() if chips == 1 else {"all-reduce"})
    assert not any("bf16" in name for name in sums)
    large = sum(each["count"] - each["small"] for each in sums.values())
    assert (large == 0) == (chips == 1)
    assert large <= 20
    assert set(found["float32_products"]) == {"losses and update"}  # Up-sampling and class means, as intended.


def test_without_the_compiler_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(compiled_tpu.importlib.util, "find_spec", lambda name: None)
    assert compiled_tpu.main(["--config=configs/toy.py:joint,smoke"]) == 0
    assert 'pip install "jax[tpu]"' in capsys.readouterr().out
