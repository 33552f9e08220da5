from benchmarks.speed.compiled import traffic

TEXT = """HloModule step

%fused (a: f32[2,3]) -> f32[2,3] {
  ROOT %b = f32[2,3]{1,0} add(%a, %a)
}

ENTRY %main (x: bf16[4,8]) -> f32[] {
  %x = bf16[4,8]{1,0} parameter(0)
  %c = f32[] constant(0)
  %loop_add_fusion.12 = (f32[4,8]{1,0}, pred[4,8]{1,0}) fusion(%x, %c), kind=kLoop, calls=%fused
  %g = f32[4,8]{1,0} get-tuple-element(%loop_add_fusion.12), index=0
  %conv = (f32[4,8]{1,0}, u8[16]{0}) custom-call(%g, %x), custom_call_target="__cudnn$convForward"
  ROOT %loop_add_fusion.3 = f32[] fusion(%g), kind=kLoop, calls=%fused
}
"""


def test_traffic_counts_operands_and_results_of_fusions_and_calls():
    assert traffic(TEXT) == {
        "loop_add_fusion": (2, (64 + 4 + 128 + 32) + (128 + 4)),
        "__cudnn$convForward": (1, 128 + 64 + 128 + 16),
    }
