"""Reads the text of a program as the compiler for TPUs writes it; the compiler itself is not needed."""

import pytest

from benchmarks.speed import compiled_tpu

STEP = "jit(train_step)"
TEXT = """HloModule step
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
    found = compiled_tpu.estimates(TEXT)
    assert found["by_kind"] == pytest.approx({"convolution fusion": 2.0, "copy": 1.0, "fusion": 0.1})
    assert found["by_layer"] == pytest.approx({"backbone/stage3": 3.0, "GlobalDiscriminator": 0.1})
    assert found["milliseconds"] == pytest.approx(3.1)
    assert found["collectives"] == {
        "all-reduce f32": {"count": 1, "small": 1, "bytes": 128},
        "all-reduce bf16": {"count": 1, "small": 0, "bytes": 20_000},
    }
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
    assert compiled_tpu.layer_of(place) == layer


def test_without_the_compiler_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(compiled_tpu.importlib.util, "find_spec", lambda name: None)
    assert compiled_tpu.main(["--config=configs/toy.py:joint,smoke"]) == 0
    assert 'pip install "jax[tpu]"' in capsys.readouterr().out
